"""Fixtures: a small problem."""

import pytest
from support.masks import problem_of
from torch import nn


@pytest.fixture(scope="module")
def small():
    return problem_of(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
