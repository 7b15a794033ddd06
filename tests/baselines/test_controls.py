"""Controls: shuffled masks, and other initial weights."""

import copy

import numpy as np
import pytest
import torch
from support.baselines import w0
from torch import nn
from torch.nn import functional as F

from evoprune import baselines, seeds
from evoprune.baselines import redrawn, shuffled
from evoprune.errors import InputError
from evoprune.masks.random import random_mask
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

# Sanity checks


def test_a_shuffled_mask_keeps_its_layer_counts(digits):
    mask = baselines.snip(digits, sparsity=0.9)
    before = mask.bits.copy()
    other = shuffled(mask, 0)
    assert {name: layer.sum() for name, layer in other.layers.items()} == {n: layer.sum() for n, layer in mask.layers.items()}
    other.require(digits.shapes)
    assert all(not np.array_equal(layer, mask.layers[name]) for name, layer in other.layers.items())
    assert shuffled(mask, 0) == other == shuffled(mask, seeds.generator(0, "variation"))
    assert shuffled(mask, 1) != other
    assert np.array_equal(mask.bits, before)


def test_shuffling_is_uniform():
    rng = np.random.default_rng(0)
    mask = random_mask({"a": (4, 5), "b": (3, 2)}, 0.5, rng, "uniform")
    chances = np.mean([shuffled(mask, rng).bits for _ in range(1000)], axis=0)
    assert np.abs(chances - 0.5).max() < 0.08  # five standard deviations


def fresh_network():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def halved(outputs, target):
    return F.cross_entropy(outputs, target) / 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", {"data": "digits", "widths": (7,), "w0_density": 0.1, "exclude": ["fc2"]}),
        ("autoencoder", {"data": "digits", "initialization": "xavier", "normalize": False}),
        (fresh_network(), {"loss": halved, "dtype": "float64"}),
        (fresh_network(), {"initialization": "kaiming", "w0_density": {"0.weight": 0.5}}),
        (fresh_network, {"recipe": Recipe(epochs=2, lr=0.01)}),
    ],
    ids=["mlp", "autoencoder", "module", "module-kaiming", "function"],
)
def test_a_redrawn_problem_differs_in_w0_alone(model, options):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    problem = Problem(model, **{"data": Data(train=(x, torch.arange(60) % 3)), "seed": 3} | options)
    before, state = problem.hash, torch.get_rng_state()
    other = redrawn(problem, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert problem.hash == before != other.hash
    assert other.shapes == problem.shapes
    for part, pair in problem.data.parts().items():
        assert all(torch.equal(a, b) for a, b in zip(pair, other.data.parts()[part], strict=True))
    for attribute in ("recipe", "seed", "loss_name", "_loss", "dtype", "device", "is_classification"):
        assert getattr(other, attribute) == getattr(problem, attribute)
    assert other.options.exclude == problem.options.exclude
    old, new = problem.network().state_dict(), other.network().state_dict()
    for name, shape in problem.shapes.items():
        assert not torch.isclose(old[name], new[name]).any()
        if shape.numel() > 100:  # the same distribution, so scaled for density as before
            assert float(new[name].std()) == pytest.approx(float(old[name].std()), rel=0.15)
    assert redrawn(problem, 8) == other != redrawn(problem, 9)
    assert redrawn(other, 9) == redrawn(problem, 9)


def test_a_redrawn_problem_of_names_is_the_named_problem_of_that_seed():
    problem = Problem("mlp", "digits", widths=(7, 5), seed=3)
    assert torch.equal(w0(redrawn(problem, 4)), w0(Problem("mlp", "digits", widths=(7, 5), seed=4)))


def the_same_network():
    return copy.deepcopy(CONSTANT)


CONSTANT = fresh_network()


@pytest.mark.parametrize(("model", "seed"), [("mlp", 3), (the_same_network, 8)])
def test_redrawing_that_changes_nothing_is_refused(model, seed):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    problem = Problem(model, Data(train=(x, torch.arange(60) % 3)), seed=3)
    with pytest.raises(InputError, match="as before; expected another seed"):
        redrawn(problem, seed)
