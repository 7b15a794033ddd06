"""Masks, and engines, that change in the middle of training."""

import itertools
from itertools import chain

import numpy as np
import pytest
import torch
from support.engines import group, masks_of
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines.move import move
from evoprune.engines.population import Population
from evoprune.engines.registry import ENGINES


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_weights_removed_in_the_middle_of_training_stay_zero(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem("mlp", widths=(20, 10), recipe=recipe, dtype="float64")
    masks = masks_of(problem, 2)
    smaller = [
        ep.Mask(mask.bits & (np.random.default_rng(k).random(len(mask)) < 0.5), mask.shapes) for k, mask in enumerate(masks)
    ]
    found = [two_halves(problem, engine, group, less) for group, less in groups(engine, masks, smaller)]
    expected = [two_halves(problem, "module", group, less) for group, less in groups("module", masks, smaller)]
    for state, reference, mask in zip(chain(*found), chain(*expected), smaller, strict=True):
        for name, layer in mask.layers.items():
            assert not state[name][torch.from_numpy(~layer)].any()
            torch.testing.assert_close(state[name], reference[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_masks_that_grow_in_the_middle_of_training(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem("mlp", widths=(20, 10), recipe=recipe, dtype="float64")
    masks, rng = masks_of(problem, 2), np.random.default_rng(7)
    others = [ep.random_mask(problem.shapes, sparsity, rng, "varied") for sparsity in (0.7, 0.9)]
    found = [two_halves(problem, engine, *both) for both in groups(engine, masks, others)]
    expected = [two_halves(problem, "module", *both) for both in groups("module", masks, others)]
    for state, reference, mask in zip(chain(*found), chain(*expected), others, strict=True):
        for name, layer in mask.layers.items():
            assert not state[name][torch.from_numpy(~layer)].any()
            torch.testing.assert_close(state[name], reference[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_survivors_keep_weight_and_memory_and_the_others_begin_at_zero(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem("mlp", widths=(20, 10), recipe=recipe)
    rng = np.random.default_rng(3)
    steps = [[ep.random_mask(problem.shapes, 0.6, rng) for _ in range(2)] for _ in range(3)]  # some weights go and come back
    steps = [group(engine, masks) for masks in steps]
    population = ENGINES[engine].build(problem, steps[0])
    trainer = problem.recipe.make_optimizer(list(population.parameters()))
    for before, now in itertools.pairwise(steps):
        take_steps(problem, population, trainer, 3)
        old = tensors_of(problem, population, trainer)
        carried = population.set_masks(now, trainer, [2 * weight.detach() for weight in population.weights])
        new = tensors_of(problem, population, trainer)
        assert list(old) == list(new)
        assert len(old) == (2 if optimizer == "SGD" else 3)
        for name, k in itertools.product(old, range(len(now))):
            kept = before[k].bits & now[k].bits
            assert not new[name][k][now[k].bits & ~before[k].bits].any()
            np.testing.assert_array_equal(new[name][k][kept], old[name][k][kept])
            assert np.count_nonzero(new[name][k][kept]) > 0.5 * kept.sum()
        for k, mask in enumerate(now):
            expected = 2 * new["weight"][k][mask.bits]
            np.testing.assert_array_equal(population.survivor_values(k, carried).numpy(), expected)
    take_steps(problem, population, trainer, 3)
    grown = steps[2][0].bits & ~steps[1][0].bits
    assert np.count_nonzero(tensors_of(problem, population, trainer)["weight"][0][grown]) > 0.5 * grown.sum()


def take_steps(problem: ep.Problem, population: Population, optimizer: torch.optim.Optimizer, count: int) -> None:
    x, y = problem.data.train
    for step in range(count):
        rows = slice(step * 32, (step + 1) * 32)
        optimizer.zero_grad()
        sum(problem.loss(output, y[rows]) for output in population(x[rows])).backward()
        population.mask_gradients()
        optimizer.step()
        population.mask_weights()


def tensors_of(problem: ep.Problem, population: Population, optimizer: torch.optim.Optimizer) -> dict[str, list[np.ndarray]]:
    """Returns weights and optimiser's memories, by name: dense over the prunable weights, one an individual."""
    parameters = list(population.parameters())
    memories = [optimizer.state[parameter] for parameter in parameters]
    names = [name for name, memory in memories[0].items() if memory.shape == parameters[0].shape]
    tensors = {"weight": [p.detach() for p in parameters]} | {name: [memory[name] for memory in memories] for name in names}
    found = {}
    for name, values in tensors.items():
        dense = [population.unpack(k, values) for k in range(population.size)]
        found[name] = [np.concatenate([one[layer].numpy().ravel() for layer in problem.shapes]) for one in dense]
    return found


def groups(engine: str, *masks: list[ep.Mask]) -> list[tuple[list[ep.Mask], ...]]:
    size = ENGINES[engine].capacity or len(masks[0])
    return [tuple(m[start : start + size] for m in masks) for start in range(0, len(masks[0]), size)]


def two_halves(
    problem: ep.Problem, engine: str, masks: list[ep.Mask], others: list[ep.Mask], second: str | None = None
) -> list[dict[str, Tensor]]:
    """Takes ten steps with the masks, and ten with others, under the second engine."""
    population = ENGINES[engine].build(problem, masks)
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    take_steps(problem, population, optimizer, 10)
    population.set_masks(others, optimizer)
    if second is not None:
        population, optimizer = move(population, optimizer, problem, second)
    take_steps(problem, population, optimizer, 10)
    return [population.state(k) for k in range(len(masks))]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("first", sorted(ENGINES))
@pytest.mark.parametrize("second", sorted(ENGINES))
def test_an_engine_is_changed_in_the_middle_of_training(first: str, second: str, optimizer: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 10, bias=False))
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem(network, ep.Problem().data, recipe, dtype="float64")
    masks = masks_of(problem, 2)
    for some in [masks] if "module" not in (first, second) else [[mask] for mask in masks]:
        found = two_halves(problem, first, some, some, second)
        expected = [state for mask in some for state in two_halves(problem, "module", [mask], [mask])]
        for state, reference in zip(found, expected, strict=True):
            for name, tensor in reference.items():
                torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12)
