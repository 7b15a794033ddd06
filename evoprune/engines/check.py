"""Whether an engine can serve a problem: two steps of training, tried against the reference engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.engines.module import ModulePopulation
from evoprune.engines.population import Engine, Population, Stint
from evoprune.engines.registry import ENGINES
from evoprune.engines.steps import train_steps
from evoprune.errors import InputError, look_up
from evoprune.masks.random import random_mask
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import MEASURE_BATCH, without_compiler

# Their step of a weight depends on other weights, which in a population may be another individual's.
_NOT_ELEMENTWISE = ("Adafactor", "Muon")


def require(name: str, problem: Problem) -> Engine:
    """Returns the engine of that name, if it can serve the problem.

    Raises:
        InputError: An unknown name; or the engine cannot serve the network or the optimiser. Two steps of training are tried
            with two masks, and then outputs and losses in training and evaluation mode on batches of the sizes that occur,
            against the reference engine.
    """
    engine = look_up("engine", name, ENGINES)
    if engine.capacity != 1 and name not in problem.refusals:
        problem.refusals[name] = _refusal(name, engine, problem)
    if reason := problem.refusals.get(name):
        raise InputError(reason)
    return engine


def _refusal(name: str, engine: Engine, problem: Problem) -> str:
    """Returns the reason why an engine cannot serve a problem; empty if it can."""
    if problem.recipe.optimizer in _NOT_ELEMENTWISE:
        return (
            f"the engine {name!r} trains all individuals in one vector, so the optimizer must work on each weight by itself; "
            f"{problem.recipe.optimizer} does not. Use the engine 'module', or another optimizer."
        )
    rng = np.random.default_rng(0)
    masks = [random_mask(problem.shapes, 0.5, rng, "uniform") for _ in range(2)]
    references = [ModulePopulation(problem, [mask]) for mask in masks]
    try:
        population = engine.build(problem, masks)
        _train_two_steps(population, problem)
        for reference in references:
            _train_two_steps(reference, problem)
        different = _different_state(population, references) or _different_outputs(population, references, problem)
    except InputError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the network raises nothing under the reference
        return f"the engine {name!r} cannot follow this network: {error}. Use the engine 'module'."
    return f"the engine {name!r} {different} than this network does alone. Use the engine 'module'." if different else ""


def try_steps(problem: Problem) -> None:
    """Trains two steps with the reference engine, under torch's settings as they are."""
    mask = random_mask(problem.shapes, 0.5, np.random.default_rng(0), "uniform")
    _train_two_steps(ModulePopulation(problem, [mask]), problem)


def _train_two_steps(population: Population, problem: Problem) -> None:
    """Trains two steps on three examples, with noise, and with frozen and unused parameters."""
    parameters = [parameter for parameter in population.parameters() if parameter.requires_grad]
    optimizer = without_compiler("SGD")(parameters, lr=0.01, weight_decay=0.1)
    n = min(3, len(problem.part("train")[0]))
    rows = torch.arange(n, device=problem.part("train")[0].device)
    population.train()
    with seeds.seeded(0, problem.device):
        train_steps(population, problem, Stint([rows] * 2, [0.01] * 2), optimizer, [])


def _different_state(population: Population, references: Sequence[Population]) -> str:
    """Names the first tensor that is trained otherwise than by the reference; empty for none."""
    for k, reference in enumerate(references):
        found = population.state(k)
        for key, expected in reference.state(0).items():
            if key not in found or not torch.allclose(found[key], expected, rtol=1e-3, atol=1e-4):
                return f"trains {key} otherwise"
    return ""


def _different_outputs(population: Population, references: Sequence[Population], problem: Problem) -> str:
    """Names the first batch whose outputs or losses differ from the reference's; empty for none."""
    for part, training, size in _batches(problem):
        x, target = (tensor[:size] for tensor in problem.part(part))
        found = _outputs(population, x, training, problem.device)
        expected = [output for reference in references for output in _outputs(reference, x, training, problem.device)]
        mode = "training" if training else "evaluation"
        where = f"in {mode} mode, on {size} examples of the {part} set,"
        for one, other in zip(found, expected, strict=True):
            if one.shape != other.shape or not _close(one, other):
                return f"has other outputs {where}"
        losses = problem.losses(torch.stack(found), target), problem.losses(torch.stack(expected), target)
        if not _close(*losses):
            return f"has other losses {where}"
    return ""


def _outputs(population: Population, x: Tensor, training: bool, device: str) -> list[Tensor]:
    population.train(training)
    with torch.no_grad(), seeds.seeded(0, device):
        return list(population(x))


def _batches(problem: Problem) -> Iterator[tuple[str, bool, int]]:
    """Yields part, whether in training mode, and size of the batches that occur."""
    for part, training, most in (
        ("train", True, problem.recipe.batch_size),
        ("validation", False, MEASURE_BATCH),
        ("test", False, MEASURE_BATCH),
    ):
        n = len(problem.part(part)[0])
        for size in sorted({min(n, most), n % most} - {0}):
            yield part, training, size


def _close(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
