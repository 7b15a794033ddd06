"""What all baselines have in common: exact counts, seeds, refusals, and reports."""

import random

import numpy as np
import pytest
import torch
from support.baselines import SPARSITIES
from torch import nn

from evoprune import baselines, seeds
from evoprune.baselines import BASELINES
from evoprune.errors import InputError
from evoprune.masks.random import random_mask, survivors_of
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

# at sparsities and on networks that are as small as these; tested below
pytestmark = [
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:.*have a score of zero"),
]

DRAWN = ["erk", "force", "grasp", "iterative-snip", "random", "snip"]


def batchnorm_and_dropout(**options):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
        )
    return Problem(network, "digits", recipe=Recipe(epochs=1), **options)


# Every baseline


@pytest.mark.sampled(9)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_survivors_are_exact_and_the_mask_fits(name, sparsity, digits):
    mask = BASELINES[name].prune(digits, sparsity=sparsity, seed=1)
    assert mask.survivors == survivors_of(sparsity, digits.prunable_count)
    mask.require(digits.shapes)


@pytest.mark.sampled(3)
def test_the_same_seed_gives_the_same_mask(name, digits):
    def prune(seed):
        return BASELINES[name].prune(digits, sparsity=0.9, seed=seed)

    torch.manual_seed(11)
    first = prune(4)
    torch.manual_seed(12)
    assert prune(4) == first
    assert prune(digits.seed) == prune(None)
    assert (prune(5) != first) == (name in DRAWN or name.startswith("lottery-ticket"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", [None, batchnorm_and_dropout], ids=["mlp", "dropout"])
def test_problem_and_global_states_stay_as_they_were(name, make, digits):
    problem = make() if make else digits
    problem_hash, state, threads = problem.hash, problem.network().state_dict(), torch.get_num_threads()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = BASELINES[name].prune(problem, sparsity=0.9, seed=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == threads
    assert problem.hash == problem_hash
    assert all(torch.equal(tensor, state[key]) for key, tensor in problem.network().state_dict().items())
    assert BASELINES[name].prune(problem, sparsity=0.9, seed=2) == first


def test_sparsity_out_of_range_is_refused(name, digits):
    with pytest.raises(InputError, match="fraction of weights to remove"):
        BASELINES[name].prune(digits, sparsity=1.0)


def test_what_a_mask_of_very_few_weights_cuts_off_is_reported(name, lenet):
    mask = BASELINES[name].prune(lenet, sparsity=0.999, seed=0)
    assert mask.survivors == 50
    reached = np.ones(64, bool)
    for layer in mask.layers.values():
        reached = layer @ reached
    collapse = mask.collapse(lenet)
    assert collapse.unreached_outputs == tuple(np.flatnonzero(~reached))
    assert collapse.empty_layers == tuple(key for key, layer in mask.layers.items() if not layer.any())


def test_dense_keeps_everything(digits):
    assert BASELINES["dense"].prune(digits, sparsity=0.9, seed=1).bits.all()
    assert baselines.dense(digits).survivors == digits.prunable_count


def test_the_registry_has_the_documented_names_and_costs(digits):
    assert list(BASELINES) == ["random", "erk", "magnitude", "snip", "iterative-snip", "force", "grasp", "synflow",
                               "lottery-ticket", "lottery-ticket-5", "dense"]  # fmt: skip
    n = len(digits.data.train[0])
    costs = {name: baseline.search_epochs(digits, 3) for name, baseline in BASELINES.items()}
    assert costs == {
        "random": 0, "erk": 0, "magnitude": 0, "dense": 0,
        "iterative-snip": 3000 / n, "force": 3000 / n,
        "snip": 100 / n, "grasp": 200 / n, "synflow": 100 / n, "lottery-ticket": 3, "lottery-ticket-5": 15,
    }  # fmt: skip
    # five rounds at densities 1, 0.2, 0.04, ... of a sparsity whose fifth power they are
    rounds = BASELINES["lottery-ticket-5"].search_cost(digits, 1 - 0.2**5, 3)
    assert rounds == pytest.approx(3 * (1 + 0.2 + 0.04 + 0.008 + 0.0016))
    assert BASELINES["lottery-ticket"].search_cost(digits, 0.9, 3) == 3


# Each against its published formula


@pytest.mark.parametrize(("prune", "densities"), [(baselines.random, "uniform"), (baselines.erk, "erk")])
def test_random_masks_are_those_of_the_masks_stream(prune, densities, digits):
    for seed in (None, 7):
        rng = seeds.generator(digits.seed if seed is None else seed, "masks")
        assert prune(digits, sparsity=0.9, seed=seed) == random_mask(digits.shapes, 0.9, rng, densities)
