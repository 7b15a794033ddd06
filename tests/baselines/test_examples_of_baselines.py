"""The examples that baselines look at."""

import math

import pytest
import torch
from support.baselines import tiny_problem
from torch import nn
from torch.nn import functional as F

from evoprune import baselines
from evoprune.baselines import default_examples
from evoprune.errors import InputError
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem

# The examples that SNIP and GraSP see


@pytest.mark.parametrize("prune", [baselines.snip, baselines.grasp])
def test_examples_are_drawn_ten_a_class(prune, digits, monkeypatch):
    seen = []
    loss = F.cross_entropy
    monkeypatch.setattr(digits, "_loss", lambda outputs, target: seen.append(target) or loss(outputs, target))
    prune(digits, sparsity=0.9)
    prune(digits, sparsity=0.9, seed=3)
    prune(digits, sparsity=0.9, examples=25)
    assert [len(target) for target in seen] == [100, 100, 25]
    assert [torch.bincount(target, minlength=10).tolist() for target in seen[:2]] == [[10] * 10] * 2
    assert not torch.equal(seen[0], seen[1])
    assert set(torch.bincount(seen[2], minlength=10).tolist()) == {2, 3}


def test_examples_without_classes_are_a_hundred_or_all():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    assert default_examples(Problem(nn.Linear(6, 6), Data(train=(x, x)))) == 100
    few = Problem(nn.Linear(6, 6), Data(train=(x[:50], x[:50])))
    assert default_examples(few) == len(few.data.train[0]) == 35
    assert baselines.snip(few, sparsity=0.5) == baselines.snip(few, sparsity=0.5, examples=35)


@pytest.mark.parametrize("prune", [baselines.snip, baselines.grasp])
@pytest.mark.parametrize("examples", [0, -1, 61, 2.0, True])
def test_examples_out_of_range_are_refused(prune, examples):
    with pytest.raises(InputError, match="from 1 to the 60 training examples"):
        prune(tiny_problem(True), sparsity=0.5, examples=examples)


def test_other_values_out_of_range_are_refused(digits):
    for value in (0, 1.5, True):
        with pytest.raises(InputError, match=r"iterations is .* positive integer"):
            baselines.synflow(digits, sparsity=0.5, iterations=value)
        with pytest.raises(InputError, match=r"rounds is .* positive integer"):
            baselines.lottery_ticket(digits, sparsity=0.5, rounds=value)
        with pytest.raises(InputError, match=r"threads is .* positive integer"):
            baselines.lottery_ticket(digits, sparsity=0.5, threads=value)
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"temperature is .* positive number"):
            baselines.grasp(digits, sparsity=0.5, temperature=value)
    with pytest.raises(InputError, match="Did you mean 'module'"):
        baselines.lottery_ticket(digits, sparsity=0.5, engine="modul")
    with pytest.raises(InputError, match="seed is -1"):
        baselines.snip(digits, sparsity=0.5, seed=-1)
