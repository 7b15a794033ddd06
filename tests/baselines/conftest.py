"""Fixtures: the baselines that learn a mask, and problems that they prune."""

import pytest
from support.baselines import LEARNED, tiny_problem

from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe


@pytest.fixture(params=LEARNED)
def name(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["biases", "no-biases"])
def tiny(request):
    """60 examples of 6 numbers in 3 classes, a network 6-5-4-3 in float64."""
    return tiny_problem(request.param)


@pytest.fixture(scope="module")
def lenet():
    return Problem("lenet-300-100", "digits", recipe=Recipe(epochs=2), seed=0)
