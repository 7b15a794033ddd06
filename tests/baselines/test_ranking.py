"""The largest scores, and scores that rank nothing."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.baselines import LEARNED, largest, tiny_problem
from torch import nn

from evoprune import baselines
from evoprune.baselines import BASELINES, top_scores
from evoprune.errors import CollapseWarning, InputError, RunError
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

# at sparsities and on networks that are as small as these; tested below
pytestmark = [
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:.*have a score of zero"),
]


# top_scores

finite = st.floats(-10, 10, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0])  # with ties


@settings(deadline=None, max_examples=200, database=None)
@given(data=st.data(), scores=arrays.arrays(np.float32, st.integers(1, 40), elements=finite))
def test_top_scores_are_exact_largest_and_stable(data, scores):
    count = data.draw(st.integers(0, len(scores)))
    kept = top_scores(torch.from_numpy(scores), count)
    assert kept.dtype == np.bool_
    assert kept.sum() == count
    assert min(scores[kept], default=math.inf) >= max(scores[~kept], default=-math.inf)
    assert np.array_equal(kept, largest(scores, count))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(RunError, match="1 of 3 scores are NaN or infinite"):
        top_scores(torch.tensor([1.0, bad, 2.0]), 1)


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(InputError, match="expected from 0 to n"):
        top_scores(torch.zeros(3), count)


def two_layers(zero, inputs=None, middle=nn.ReLU, excluded=(), **options):
    """20 inputs, 16 neurons, 2 outputs; the weights that are named are zero."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=draws) if inputs is None else inputs
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(20, 16), middle(), nn.Linear(16, 2))
    with torch.no_grad():
        for name in zero:
            network.get_parameter(name).zero_()
    data = Data(train=(x, torch.arange(len(x)) % 2))
    return Problem(network, data, recipe=Recipe(epochs=1), exclude=list(excluded), **options)


class Dead(nn.Module):
    def forward(self, x):
        return torch.relu(-1.0 - x.abs())


ALL_ZERO = ("0.weight", "2.weight", "0.bias", "2.bias")

AGAIN = {"iterative-snip", "force"}

SALIENCIES = ["snip", "grasp", "synflow", *AGAIN]

RANKED = sorted(set(LEARNED) - {"random", "erk"})


# Networks in which signal or gradient is cut off; the baselines of which no score can be told from another
NOTHING_RANKED = {
    "zero head": (lambda: two_layers(["2.weight", "2.bias"]), {"snip", "synflow", *AGAIN}, "2.weight are zero"),
    "zero head, excluded": (lambda: two_layers(["2.weight"], excluded=["2"]), {*SALIENCIES}, "2.weight are zero"),
    "zero first layer": (lambda: two_layers(["0.weight", "0.bias"]), {*SALIENCIES}, "0.weight are zero"),
    "zero W0": (lambda: two_layers(ALL_ZERO), set(RANKED), "0.weight, 2.weight are zero"),
    "zero inputs": (lambda: two_layers(["0.bias"], torch.zeros(300, 20)), {"snip", "grasp", *AGAIN}, ""),
    "dead neurons": (lambda: two_layers([], middle=Dead), {*SALIENCIES}, ""),
}  # fmt: skip


@pytest.mark.sampled(18)
@pytest.mark.parametrize("case", NOTHING_RANKED)
@pytest.mark.parametrize("ranked", RANKED)
def test_scores_that_rank_nothing_are_refused(case, ranked):
    make, refused, cause = NOTHING_RANKED[case]
    problem = make()
    if ranked in refused:
        what = ranked.removesuffix("-5").replace("-", "_")
        with pytest.raises(RunError, match=f"scores of {what} are 0; they rank nothing.*{cause}"):
            BASELINES[ranked].prune(problem, sparsity=0.9, seed=0)
        return
    mask = BASELINES[ranked].prune(problem, sparsity=0.9, seed=0)
    assert not np.array_equal(np.flatnonzero(mask.bits), np.arange(mask.survivors))


@pytest.mark.parametrize("ranked", ["magnitude", "synflow"])
def test_scores_that_are_all_equal_are_refused(ranked):
    problem = Problem(nn.Linear(6, 3, bias=False), tiny_problem(True).data)
    with torch.no_grad():
        problem._template.weight.fill_(0.5)
    with pytest.raises(RunError, match=r"all 18 scores of .* are 0.5; they rank nothing"):
        BASELINES[ranked].prune(problem, sparsity=0.5)


@pytest.mark.parametrize("ranked", RANKED)
def test_nothing_need_be_ranked_where_nothing_is_removed(ranked):
    assert BASELINES[ranked].prune(two_layers(ALL_ZERO), sparsity=0.0, seed=0).bits.all()


# Half of the inputs are zero, and so is the half of W0 that they meet: whose scores are zero
HALF = torch.cat([torch.randn(300, 10, generator=torch.Generator().manual_seed(0)), torch.zeros(300, 10)], 1)


def half_dead():
    problem = two_layers([], HALF)
    with torch.no_grad():
        problem._template[0].weight[:, 10:] = 0
    return problem


@pytest.mark.parametrize("ranked", RANKED)
def test_scores_of_zero_that_are_kept_are_said(ranked):
    problem = half_dead()
    kept = problem.prunable_count - 40
    with pytest.warns(UserWarning, match=rf"of the {kept} weights that it keeps \d+ have a score of zero \(.* in 0.weight"):
        mask = BASELINES[ranked].prune(problem, sparsity=40 / problem.prunable_count, seed=0)
    assert mask.survivors == kept
    if ranked == "magnitude":
        with pytest.warns(UserWarning, match=rf"{ranked}: of the {kept} weights that it keeps 120 have .*\(120 in 0.weight\)"):
            BASELINES[ranked].prune(problem, sparsity=40 / problem.prunable_count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", CollapseWarning)
        BASELINES[ranked].prune(problem, sparsity=0.9, seed=0)


# A collapsed mask


@pytest.mark.parametrize("collapsing", LEARNED)
def test_a_mask_that_cuts_off_is_said(collapsing):
    problem = Problem("mlp", "digits", widths=(24, 16), recipe=Recipe(epochs=1))
    for sparsity in (0.3, 0.999):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mask = BASELINES[collapsing].prune(problem, sparsity=sparsity, seed=0)
        expected = [str(mask.collapse(problem))] if mask.collapse(problem) else []
        texts = [str(warning.message) for warning in said if warning.category is CollapseWarning]
        assert [text.split("cuts off: ")[1].split("; lower")[0] for text in texts] == expected
        assert bool(expected) == (sparsity == 0.999)


def test_functions_say_it_like_the_registry(digits):
    with pytest.warns(CollapseWarning, match="the mask of magnitude cuts off: no survivors in"):
        baselines.magnitude(digits, sparsity=0.999)
    with pytest.warns(CollapseWarning, match="the mask of magnitude cuts off: no survivors in"):
        baselines.magnitude(problem=digits, sparsity=0.999)
