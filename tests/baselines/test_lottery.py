"""Lottery tickets: the largest weights of a trained network."""

import math

import numpy as np
import pytest
import torch
from support.baselines import SPARSITIES, tiny_problem
from torch.nn import functional as F

from evoprune import baselines, seeds
from evoprune.baselines import lottery
from evoprune.engines.registry import ENGINES
from evoprune.errors import RunError
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.seeds import batch_order

# at sparsities and on networks that are as small as these; tested below
pytestmark = [
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:.*have a score of zero"),
]


def trained_plainly(problem, mask=None):
    """W after the whole recipe, with nothing but torch."""
    x, y = problem.part("train")
    network = problem.network()
    optimizer = problem.recipe.make_optimizer(list(network.parameters()))
    steps = math.ceil(len(x) / problem.recipe.batch_size)
    order = seeds.integer(problem.seed, "order")
    named = dict(network.named_parameters())

    def remove():
        for name, layer in {} if mask is None else mask.layers.items():
            named[name].data *= torch.from_numpy(layer)

    remove()
    for epoch in range(problem.recipe.epochs):
        for step, rows in enumerate(batch_order(len(x), problem.recipe.batch_size, order, epoch, x.device)):
            optimizer.param_groups[0]["lr"] = problem.recipe.learning_rate(epoch * steps + step, steps)
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            remove()
    return torch.cat([named[name].detach().flatten() for name in problem.shapes])


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_lottery_ticket_is_the_largest_trained_weights(tiny, engine):
    trained = trained_plainly(tiny).abs()
    for sparsity in SPARSITIES[:-1]:
        kept = torch.zeros(len(trained), dtype=torch.bool)
        kept[trained.topk(survivors_of(sparsity, len(trained))).indices] = True
        mask = baselines.lottery_ticket(tiny, sparsity=sparsity, engine=engine)
        assert np.array_equal(mask.bits, kept.numpy())


def test_an_iterative_ticket_rewinds_and_prunes_by_the_same_factor(tiny):
    n = tiny.prunable_count
    densities = [0.2 ** (1 / 3), 0.2 ** (2 / 3), 0.2]
    mask = baselines.dense(tiny)
    for density in densities:
        trained = trained_plainly(tiny, mask).abs()
        kept = np.zeros(n, bool)
        kept[trained.topk(round(density * n)).indices] = True
        assert not (kept & ~mask.bits).any()
        mask = type(mask)(kept, tiny.shapes)
    assert baselines.lottery_ticket(tiny, sparsity=0.8, rounds=3) == mask


def test_masks_of_more_rounds_are_nested(digits):
    # the first of two rounds to density 0.2 ** 2 is the only one to 0.2
    coarse = baselines.lottery_ticket(digits, sparsity=0.8)
    fine = baselines.lottery_ticket(digits, sparsity=1 - 0.2**2, rounds=2)
    assert fine.survivors < coarse.survivors
    assert not (fine.bits & ~coarse.bits).any()


def test_a_survivor_trained_to_zero_outranks_what_was_removed(monkeypatch):
    problem = Problem("mlp", "digits", widths=(2,), recipe=Recipe(epochs=1))
    rounds = []

    def fake_training(population, *_):  # none in the first round, and nearly all to zero in the second
        rounds.append(1)
        for weight in population.weights if len(rounds) == 2 else ():
            weight.data.view(-1)[3:] = 0

    monkeypatch.setattr(lottery, "train", fake_training)
    mask = baselines.lottery_ticket(problem, sparsity=0.75, rounds=2)
    assert len(rounds) == 2
    assert mask.survivors == 37
    assert not (mask.bits & ~baselines.magnitude(problem, sparsity=0.5).bits).any()


def test_a_ticket_tells_of_each_epoch(digits):
    epochs = []
    baselines.lottery_ticket(digits, sparsity=0.9, rounds=2, on_epoch=lambda: epochs.append(1))
    assert len(epochs) == 2 * digits.recipe.epochs


def test_a_training_that_diverges_is_said():
    problem = tiny_problem(True, recipe=Recipe(epochs=3, lr=1e12, batch_size=16))
    with pytest.raises(RunError, match=r"NaN or infinite.*lower the recipe's lr"):
        baselines.lottery_ticket(problem, sparsity=0.5)
