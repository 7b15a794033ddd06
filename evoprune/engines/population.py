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
