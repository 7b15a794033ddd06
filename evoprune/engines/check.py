"""Whether an engine can serve a problem: two steps of training, tried against the reference engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.engines.module import ModulePopulation
from evoprune.engines.optimizer import optimizer_of
from evoprune.engines.population import Engine, Population, Stint
from evoprune.engines.registry import ENGINES
from evoprune.engines.steps import train_steps
from evoprune.errors import InputError, look_up
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask
from evoprune.problem.examples import measure_batch
from evoprune.problem.problem import Problem

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
    not_elementwise = (
        f"the engine {name!r} trains all individuals in one vector, so the optimizer must work on each weight by itself; "
        f"{problem.recipe.optimizer} does not. Use the engine 'module', or another optimizer."
    )
    if problem.recipe.optimizer in _NOT_ELEMENTWISE:
        return not_elementwise
    rng = np.random.default_rng(0)
    masks = [random_mask(problem.shapes, 0.5, rng, "uniform") for _ in range(2)]
    trial = _with_plain_steps(problem)
    try:
        if problem.recipe.decay != "all":
            optimizer_of(engine.build(problem, masks), problem)
        if problem.recipe.precision != "full" and _is_full(engine.build(problem, masks), trial):
            return f"the engine {name!r} computes in full precision; give precision='full', or use the engine 'module'."
        if "optimizer" in problem.recipe.own and _steps_differ(engine, problem, masks):
            return not_elementwise
        population, references = engine.build(trial, masks), [ModulePopulation(trial, [mask]) for mask in masks]
        _train_two_steps(population, trial)
        for reference in references:
            _train_two_steps(reference, trial)
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


def _with_plain_steps(problem: Problem) -> Problem:
    """Returns the problem with an optimiser and a precision that magnify no rounding; clipping and decay stay."""
    plain: dict[str, Any] = {
        "optimizer": "SGD",
        "lr": 0.01,
        "momentum": 0.0,
        "nesterov": False,
        "precision": "full",
        "weight_decay": 0.1,
        "options": {},
    }
    trial = problem.with_recipe(replace(problem.recipe, **plain))
    trial.programs = problem.programs
    return trial


def _is_full(population: Population, full: Problem) -> bool:
    """Tells whether a population has the outputs of a problem with full precision."""
    x = full.part("validation")[0]
    x = x[: measure_batch(x)]
    expected = [
        output for mask in population.masks for output in _outputs(ModulePopulation(full, [mask]), x, False, full.device)
    ]
    found = _outputs(population, x, False, full.device)
    return all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in zip(found, expected, strict=True))


def _steps_differ(engine: Engine, problem: Problem, masks: Sequence[Mask]) -> bool:
    """Tells whether the recipe's optimiser moves a population otherwise than each individual alone, in two steps.

    All get the same random gradients, so that no difference of rounding is magnified, and a learning rate of 1.
    """
    population, references = engine.build(problem, masks), [ModulePopulation(problem, [mask]) for mask in masks]
    before = [reference.state(0) for reference in references]
    generator = torch.Generator().manual_seed(0)
    names = [name for name, _ in problem.network().named_parameters()]
    gradients = [
        [{name: torch.randn(state[name].shape, generator=generator).to(state[name]) for name in names} for state in before]
        for _ in range(2)
    ]
    for each, ks in ((population, range(len(masks))), *((reference, (k,)) for k, reference in enumerate(references))):
        optimizer = optimizer_of(each, problem)
        for step in gradients:
            _step(each, optimizer, [step[k] for k in ks])
    for k, reference in enumerate(references):
        found, expected = population.state(k), reference.state(0)
        if not all(_close(found[name] - before[k][name], expected[name] - before[k][name]) for name in names):
            return True
    return False


def _step(population: Population, optimizer: torch.optim.Optimizer, gradients: Sequence[Mapping[str, Tensor]]) -> None:
    """Takes a step with given gradients of each individual."""
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    for parameter, gradient in zip(population.parameters(), population.pack(gradients), strict=True):
        parameter.grad = gradient if parameter.requires_grad else None
    population.mask_gradients()
    optimizer.step()
    population.mask_weights()


def _train_two_steps(population: Population, problem: Problem) -> None:
    """Trains two steps on three examples, with noise, and with frozen and unused parameters."""
    optimizer = optimizer_of(population, problem)
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
        ("validation", False, measure_batch(problem.part("validation")[0])),
        ("test", False, measure_batch(problem.part("test")[0])),
    ):
        n = len(problem.part(part)[0])
        for size in sorted({min(n, most), n % most} - {0}):
            yield part, training, size


def _close(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
