"""The protocol of a population: K masked networks as one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem


class Population(Protocol):
    """K masked networks as one module: all that the training loop and the fitness need from an engine.

    Attributes:
        size: Number of individuals, K.
        masks: Their masks, as they are now.
        weights: The parameters that hold the prunable weights, of all individuals, in an order that the engine chooses.
    """

    size: int
    masks: list[Mask]
    weights: list[nn.Parameter]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...] of inputs [batch, ...]."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Returns the tensors that the optimiser trains."""

    def train(self, mode: bool = True) -> Any:
        """Switches dropout and normalisation, as in PyTorch."""

    def mask_gradients(self) -> None:
        """Sets the gradients of removed weights to exactly zero, before the optimiser's step."""

    def mask_weights(self) -> None:
        """Sets removed weights to exactly zero, after the optimiser's step."""

    def set_masks(
        self, masks: Sequence[Mask], optimizer: torch.optim.Optimizer, carried: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Replaces the masks in the middle of training: weights may be removed, and others may grow.

        Survivors keep their weight and the optimiser's memory of it. A weight that grows starts at zero, with a memory of
        zero, even if the network had it once before.

        Args:
            masks: The masks from now on, one an individual; any masks of the network.
            optimizer: The optimiser that trains the population.
            carried: Tensors shaped like ``weights``, such as sums of gradients.

        Returns:
            The carried tensors as ``weights`` are shaped now, with zeros for the weights that grow.
        """

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the values of the survivors of individual k, in the order of its mask, in tensors shaped like ``weights``."""

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the ``state_dict`` of individual k as the problem's network would have it: dense, removed weights zero."""

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Sets parameters and buffers to those of each individual's dense ``state_dict``."""

    def unpack(self, k: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the part of individual k in tensors shaped like ``parameters()``: dense, by the parameters' names."""

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Returns tensors shaped like ``parameters()`` from each individual's dense ones: the inverse of ``unpack``."""


@dataclass(frozen=True)
class Stint:
    """Some steps of a training, one after another.

    Attributes:
        rows: The numbers of each step's training examples.
        rates: The learning rate of each step.
        draws: The seed of each step's augmentation; None for as the examples are.
    """

    rows: list[Tensor]
    rates: list[float]
    draws: list[int] | None = None

    def batches(self, problem: Problem, part: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields inputs and targets of each step, of some steps."""
        rows = self.rows[part]
        for each, draw in zip(rows, [None] * len(rows) if self.draws is None else self.draws[part], strict=True):
            yield problem.batch(each, draw)


@dataclass(frozen=True)
class Engine:
    """An engine's entry in the registry.

    Attributes:
        kind: The population's class.
        capacity: Most individuals that it trains at once; None for any number.
        company_changes_no_bit: Tells whether, for a problem, an individual is known to have the same bits alone and beside
            others, so that a population may be split to suit the workers.
        arithmetic: The version of its arithmetic: with another one, an individual may get other bits.
        fault: Returns the reason why this machine cannot have the engine; empty if it can.
    """

    kind: Any
    capacity: int | None = None
    company_changes_no_bit: Callable[[Problem], bool] = lambda problem: False
    arithmetic: int = 1
    fault: Callable[[], str] = lambda: ""

    def build(self, problem: Problem, masks: Sequence[Mask]) -> Population:
        """Makes the population of some masks, at W0."""
        population: Population = self.kind(problem, masks)
        return population

    def chunk(self, size: int) -> int:
        """Returns how many individuals it trains at once where so many are wanted."""
        return min(size, self.capacity or size)
