"""Engines against the reference engine, ``module``."""

from collections.abc import Sequence

import numpy as np
import torch

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.terms import BUILT_IN_TERMS, TERMS, Outcome
from evoprune.training.loop import train
from evoprune.training.measure import measure
from evoprune.training.threads import torch_threads


def masks_of(problem: ep.Problem, count: int, sparsity: float = 0.8) -> list[ep.Mask]:
    rng = np.random.default_rng(1)
    return [ep.random_mask(problem.shapes, sparsity, rng) for _ in range(count)]


def full_masks(problem: ep.Problem, count: int, density: float = 0.6) -> list[ep.Mask]:
    """Returns random masks that leave every unit an input: batch normalisation of a constant magnifies its rounding."""
    rng = np.random.default_rng(2)
    masks = []
    for _ in range(count):
        layers = {}
        for name, shape in problem.shapes.items():
            layer = rng.random((shape[0], int(np.prod(shape[1:])))) < density
            layer[np.arange(shape[0]), rng.integers(0, layer.shape[1], shape[0])] = True
            layers[name] = layer.reshape(shape)
        masks.append(ep.Mask.from_layers(layers))
    return masks


def group(engine: str, masks: list[ep.Mask]) -> list[ep.Mask]:
    return masks[: ENGINES[engine].capacity]


def terms(problem: ep.Problem, engine: str, masks: Sequence[ep.Mask], epochs: int = 1, threads: int = 1) -> np.ndarray:
    """Returns every fitness term of every mask, [terms, K]."""
    return trained(problem, engine, masks, epochs, threads)[0]


def trained(
    problem: ep.Problem, engine: str, masks: Sequence[ep.Mask], epochs: int = 1, threads: int = 1
) -> tuple[np.ndarray, list[dict[str, torch.Tensor]]]:
    """Returns every fitness term of every mask, [terms, K], and the networks' states."""
    size = ENGINES[engine].capacity or len(masks)
    columns, states = [], []
    with torch_threads(threads):
        for start in range(0, len(masks), size):
            population = ENGINES[engine].build(problem, masks[start : start + size])
            done = train(population, problem, epochs, seed=3)
            validation = measure(population, problem, "validation")
            outcome = Outcome(**vars(done), problem=problem, validation=validation)
            columns.append([TERMS[name](outcome) for name in BUILT_IN_TERMS])
            states += [population.state(k) for k in range(population.size)]
    return np.concatenate(columns, axis=1), states


def assert_as_module(
    problem: ep.Problem, masks: Sequence[ep.Mask], epochs: int = 1, rtol: float = 1e-9, engine: str = "sparse"
) -> None:
    """Asserts that an engine gives the terms and states of ``module``."""
    found, states = trained(problem, engine, masks, epochs)
    expected, references = trained(problem, "module", masks, epochs)
    np.testing.assert_allclose(found, expected, rtol=rtol)
    for state, reference in zip(states, references, strict=True):
        assert list(state) == list(reference)
        for name, tensor in reference.items():
            scale = float(tensor.abs().max()) if tensor.numel() else 0.0
            torch.testing.assert_close(state[name], tensor, rtol=10 * rtol, atol=10 * rtol * max(scale, 0.1))
