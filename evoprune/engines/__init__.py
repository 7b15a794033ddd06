"""Engines: each turns (problem, masks) into one ``nn.Module`` whose parameters hold every individual.

To add one, write a class that satisfies :class:`Population` and enter it in :data:`ENGINES`; the tests take the engines
from there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from evoprune import seeds
from evoprune.engines.module import ModulePopulation
from evoprune.engines.sparse import SparsePopulation, company_changes_no_bit
from evoprune.engines.stacked import StackedPopulation
from evoprune.errors import InputError, look_up
from evoprune.initialize import random_mask
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.recipe import MEASURE_BATCH


class Population(Protocol):
    """K masked networks as one module: what the training loop and the fitness ask of an engine.

    Attributes:
        size: Number of individuals, K.
        masks: Their masks, as they are now.
        weights: The parameters that hold the prunable weights, of all individuals, in an order of the engine's own.
    """

    size: int
    masks: list[Mask]
    weights: list[nn.Parameter]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...] of inputs [batch, ...]."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Returns what the optimiser trains."""

    def train(self, mode: bool = True) -> Any:
        """Switches dropout and normalisation, as in PyTorch."""

    def mask_gradients(self) -> None:
        """Sets the gradients of removed weights to exactly zero, before the optimiser's step."""

    def mask_weights(self) -> None:
        """Sets removed weights to exactly zero, after the optimiser's step."""

    def keep(self, masks: Sequence[Mask], optimizer: torch.optim.Optimizer) -> list[Any]:
        """Removes survivors for good, in the middle of training.

        Args:
            masks: The masks from now on, each a subset of what it was.
            optimizer: The optimiser that trains the population; what it remembers of the survivors is kept.

        Returns:
            For each of ``weights``, the index that selects what stays of a tensor shaped as it was.
        """

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns what tensors shaped like ``weights`` have for the survivors of individual k, in the order of its mask."""

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the ``state_dict`` of individual k as the problem's network would have it: dense, removed weights zero."""

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Sets parameters and buffers to those of each individual's dense ``state_dict``."""

    def unpack(self, k: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns what tensors shaped like ``parameters()`` have for individual k: dense, by the parameters' names."""

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Returns tensors shaped like ``parameters()`` from each individual's dense ones: the inverse of ``unpack``."""


# What they do to a weight depends on other weights, which in a population may be another individual's.
_NOT_ELEMENTWISE = ("Adafactor", "Muon")


@dataclass(frozen=True)
class Engine:
    """An engine's entry in the registry.

    Attributes:
        kind: The population's class.
        capacity: Most individuals that it trains at once; None for any number.
        company_changes_no_bit: Tells of a problem whether it is known that an individual has the same bits alone and beside
            others, so that a population may be split as suits the workers.
    """

    kind: Any
    capacity: int | None = None
    company_changes_no_bit: Callable[[Problem], bool] = lambda problem: False

    def build(self, problem: Problem, masks: Sequence[Mask]) -> Population:
        """Makes the population of some masks, at W0."""
        population: Population = self.kind(problem, masks)
        return population


ENGINES = {
    "module": Engine(ModulePopulation, 1, lambda problem: True),
    "stacked": Engine(StackedPopulation),
    "sparse": Engine(SparsePopulation, None, company_changes_no_bit),
}


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
    """Returns why an engine cannot serve a problem; empty where it can."""
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
    except Exception as error:  # noqa: BLE001 - whatever the network raises there, it does not under the reference
        return f"the engine {name!r} cannot follow this network: {error}. Use the engine 'module'."
    return f"the engine {name!r} {different} than this network does alone. Use the engine 'module'." if different else ""


def move(
    population: Population, optimizer: torch.optim.Optimizer, problem: Problem, name: str
) -> tuple[Population, torch.optim.Optimizer]:
    """Goes on with another engine in the middle of training.

    Args:
        population: The population.
        optimizer: The optimiser that trains it.
        problem: Their problem.
        name: Name of the other engine.

    Returns:
        The population under the other engine, and an optimiser that remembers what the first one did; the same two where
        they have that engine already.
    """
    if isinstance(population, ENGINES[name].kind):
        return population, optimizer
    other = ENGINES[name].build(problem, population.masks)
    other.load([population.state(k) for k in range(population.size)])
    before, now = list(population.parameters()), list(other.parameters())
    successor = problem.recipe.make_optimizer(now)
    memories = [optimizer.state.get(parameter, {}) for parameter in before]
    for key in dict.fromkeys(key for memory in memories for key in memory):
        first = next(memory[key] for memory in memories if key in memory)
        if not isinstance(first, Tensor) or first.ndim == 0:  # a step count
            packed = [copy.deepcopy(first) for _ in now]
        else:
            values = [memory.get(key, torch.zeros_like(p)) for memory, p in zip(memories, before, strict=True)]
            packed = other.pack([population.unpack(k, values) for k in range(population.size)])
        for parameter, value in zip(now, packed, strict=True):
            successor.state[parameter][key] = value
    return other, successor


def _train_two_steps(population: Population, problem: Problem) -> None:
    """Trains two steps on three examples, noise, frozen and unused parameters and all."""
    x, target = problem.part("train")
    parameters = [parameter for parameter in population.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, weight_decay=0.1)
    population.train()
    with seeds.seeded(0):
        for _ in range(2):
            optimizer.zero_grad()
            losses = [problem.loss(outputs, target[:3]) for outputs in population(x[:3])]
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            population.mask_gradients()
            optimizer.step()
            population.mask_weights()


def _different_state(population: Population, references: Sequence[Population]) -> str:
    """Returns what is trained otherwise than by the reference; empty for nothing."""
    for k, reference in enumerate(references):
        found = population.state(k)
        for key, expected in reference.state(0).items():
            if key not in found or not torch.allclose(found[key], expected, rtol=1e-3, atol=1e-4):
                return f"trains {key} otherwise"
    return ""


def _different_outputs(population: Population, references: Sequence[Population], problem: Problem) -> str:
    """Returns where outputs or losses differ from the reference's; empty for nowhere."""
    for part, training, size in _batches(problem):
        x, target = (tensor[:size] for tensor in problem.part(part))
        found = _outputs(population, x, training)
        expected = [output for reference in references for output in _outputs(reference, x, training)]
        mode = "training" if training else "evaluation"
        where = f"in {mode} mode, on {size} examples of the {part} set,"
        for one, other in zip(found, expected, strict=True):
            if one.shape != other.shape or not _close(one, other):
                return f"has other outputs {where}"
        losses = problem.losses(torch.stack(found), target), problem.losses(torch.stack(expected), target)
        if not _close(*losses):
            return f"has other losses {where}"
    return ""


def _outputs(population: Population, x: Tensor, training: bool) -> list[Tensor]:
    population.train(training)
    with torch.no_grad(), seeds.seeded(0):
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
