"""Fixtures: a toolbox of DEAP's, and its problem."""

import pytest
from deap import base
from support.toolboxes import make_toolbox

import evoprune as ep


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=ep.Recipe(epochs=1), seed=0)


@pytest.fixture
def toolbox(problem: ep.Problem) -> base.Toolbox:
    return make_toolbox(problem)
