"""Engines on attention, recurrent layers, embeddings and parameters outside of layers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.engines import full_masks, masks_of, terms
from support.kinds import HIDDEN, KINDS, TOKENS, WIDTH, WORDS, problem_of

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.check import require
from evoprune.engines.population import Population, Stint
from evoprune.engines.registry import ENGINES
from evoprune.engines.steps import train_steps
from evoprune.masks.collapse import unreached_outputs
from evoprune.problem.fused import without_fast_path
from evoprune.training.cost import multiply_adds
from evoprune.training.gradient import dense_gradient

REFUSED = {
    "stacked": {"LSTM": "aten::lstm", "GRU": "aten::gru", "everything": "aten::lstm"},
    "sparse": {
        "attention": r"attention \(MultiheadAttention\) returns no single tensor",
        "encoder": r"encoder \(TransformerEncoderLayer\) is of a kind that the engine 'sparse' does not know",
        "LSTM": r"cell \(LSTM\) returns no single tensor",
        "GRU": r"cell \(GRU\) returns no single tensor",
        "embedding": r"inputs are torch\.int64",
        "bare": "is a parameter or buffer outside of layers|arguments that are no values|mixes the examples",
        "everything": r"inputs are torch\.int64",
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", REFUSED)
def test_a_kind_is_trained_as_by_the_reference_or_refused(engine: str, kind: str) -> None:
    problem = problem_of(kind)
    if kind in REFUSED[engine]:
        with pytest.raises(ep.InputError, match=REFUSED[engine][kind]) as error:
            require(engine, problem)
        assert "Use the engine 'module'" in str(error.value)
        assert auto.choose(problem, 0.9, 4) != engine
        return
    masks = masks_of(problem, 3, 0.5)
    require(engine, problem)
    np.testing.assert_allclose(terms(problem, engine, masks), terms(problem, "module", masks), rtol=1e-9)


def removed_weights(population: Population, k: int) -> list[float]:
    """Returns the sum of the removed weights' sizes in each layer."""
    state = population.state(k)
    pairs = ((state[name], torch.from_numpy(layer)) for name, layer in population.masks[k].layers.items())
    return [float(weight[~layer].abs().sum()) for weight, layer in pairs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["module", "stacked"])
def test_removed_weights_are_zero_after_every_step(engine: str, kind: str) -> None:
    problem = problem_of(kind)
    if kind in REFUSED.get(engine, {}):
        return
    masks = masks_of(problem, ENGINES[engine].capacity or 2, 0.5)
    population = ENGINES[engine].build(problem, masks)
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    population.train()
    before = population.state(0)
    for step in range(4):
        rows = torch.arange(16 * step, 16 * step + 16) % len(problem.part("train")[0])
        train_steps(population, problem, Stint([rows], [0.1]), optimizer, [])
        for k in range(len(masks)):
            assert removed_weights(population, k) == [0.0] * len(problem.shapes)
    after = population.state(0)
    assert not any(torch.equal(before[name], after[name]) for name in problem.shapes)


@pytest.mark.parametrize("engine", ["module", "stacked"])
def test_masks_change_in_the_middle(engine: str) -> None:
    problem = problem_of("attention")
    first, second = (masks_of(problem, 2, sparsity)[:1] for sparsity in (0.6, 0.3))
    population = ENGINES[engine].build(problem, first)
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    train_steps(population.train(), problem, Stint([torch.arange(16)], [0.1]), optimizer, [])
    population.set_masks(second, optimizer)
    state = population.state(0)
    for name, layer in second[0].layers.items():
        grown = torch.from_numpy(layer & ~first[0].layers[name])
        assert grown.any() and not state[name][grown].any()
    assert removed_weights(population, 0) == [0.0] * len(problem.shapes)


@pytest.mark.parametrize("kind", ["attention", "encoder"])
def test_the_fast_path_of_attention_gives_the_same(kind: str) -> None:
    problem = problem_of(kind)
    population = ENGINES["module"].build(problem, masks_of(problem, 1, 0.5)).eval()
    x, _ = problem.part("validation")
    with torch.no_grad():
        fast = population(x)
        with without_fast_path():
            plain = population(x)
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_gradient_is_that_of_the_loss(kind: str) -> None:
    """Of a removed weight, by a difference of the loss of all examples on both sides of zero."""
    problem = problem_of(kind)
    population = ENGINES["module"].build(problem, full_masks(problem, 1)).eval()
    state, (x, y) = population.state(0), problem.part("train")
    gradient = dense_gradient(problem, state, seed=0, batch=len(x))
    (network,) = population.children()
    offset, step = 0, 1e-5
    for name in problem.shapes:
        weight = network.get_parameter(name).data.view(-1)
        kept = population.masks[0].layers[name].ravel()
        assert not kept.all()
        i = int(np.argmax(np.where(kept, -1, gradient[offset : offset + kept.size])))
        losses = []
        for value in (step, -step):
            weight[i] = value
            with torch.no_grad():
                losses.append(float(problem.loss(network(x), y)))
        weight[i] = 0
        assert gradient[offset + i] == pytest.approx(abs(losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-9)
        offset += kept.size


# Multiply-adds of a forward pass on the survivors of a layer, by their number.
Cost = Callable[[dict[str, int]], int]
COSTS: dict[str, tuple[Cost, int]] = {
    "attention": (
        lambda kept: TOKENS * (kept["attention.in_proj_weight"] + kept["attention.out_proj.weight"]) + kept["last.weight"],
        TOKENS * (3 * WIDTH * WIDTH + WIDTH * WIDTH) + 2 * WIDTH,
    ),
    "LSTM": (
        lambda kept: TOKENS * (kept["cell.weight_ih_l0"] + kept["cell.weight_hh_l0"]) + kept["last.weight"],
        TOKENS * 4 * HIDDEN * (WIDTH + HIDDEN) + 2 * HIDDEN,
    ),
    "GRU": (
        lambda kept: TOKENS * sum(count for name, count in kept.items() if name != "last.weight") + kept["last.weight"],
        TOKENS * 2 * 3 * HIDDEN * (WIDTH + HIDDEN) + 2 * 2 * HIDDEN,
    ),
    "embedding": (
        lambda kept: kept["hidden.weight"] + kept["last.weight"],  # a look-up is no multiply-add
        HIDDEN * WIDTH + 2 * HIDDEN,
    ),
}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_costs_are_those_counted_by_hand(kind: str, dtype: str) -> None:
    on_survivors, dense = COSTS[kind]
    problem = problem_of(kind, dtype)
    n = 3 * len(problem.part("train")[0])  # forward, and two gradients
    (mask,) = masks_of(problem, 1, 0.7)
    kept = {name: int(layer.sum()) for name, layer in mask.layers.items()}
    assert multiply_adds(problem, mask) == n * on_survivors(kept)
    assert multiply_adds(problem, ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes)) == n * dense


# Collapse


def mask_without(problem: ep.Problem, *removed: tuple[str, slice]) -> dict[str, np.ndarray]:
    layers = {name: np.ones(shape, bool) for name, shape in problem.shapes.items()}
    for name, rows in removed:
        layers[name][rows] = False
    return layers


@pytest.mark.parametrize(
    ("kind", "removed", "cut"),
    [
        ("attention", [("attention.in_proj_weight", slice(2 * WIDTH, None))], True),  # the values
        ("attention", [("attention.in_proj_weight", slice(0, 2 * WIDTH))], False),  # queries and keys: the mean of all values
        ("LSTM", [("cell.weight_ih_l0", slice(None))], True),
        ("LSTM", [("cell.weight_hh_l0", slice(None))], False),  # no memory but the cell's
        ("LSTM", [("cell.weight_ih_l0", slice(HIDDEN, None))], False),  # inputs reach one of the gates
        ("embedding", [("table.weight", slice(None))], True),
        ("embedding", [("table.weight", slice(1, WORDS - 1))], False),
    ],
)
def test_collapse_is_found_in_every_kind(kind: str, removed: list[tuple[str, slice]], cut: bool) -> None:
    problem = problem_of(kind)
    found = unreached_outputs(problem, mask_without(problem, *removed))
    assert found == ((0, 1) if cut else ())
