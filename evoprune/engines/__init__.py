"""Engines: each turns (problem, masks) into one ``nn.Module`` whose parameters hold every individual.

To add one, write a class that satisfies :class:`Population` and enter it in :data:`ENGINES`; the tests take the engines
from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune.engines.module import ModulePopulation
from evoprune.mask import Mask
from evoprune.problem import Problem


class Population(Protocol):
    """K masked networks as one module: what the training loop and the fitness ask of an engine.

    Attributes:
        size: Number of individuals, K.
        weights: The parameters that hold the prunable weights, of all individuals, in an order of the engine's own.
    """

    size: int
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

    def survivor_sums(self, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
        """Sums tensors shaped like ``weights`` over each individual's survivors.

        Returns:
            Sums [K]; neither the number of threads nor the other individuals change their bits.
        """

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the ``state_dict`` of individual k as the problem's network would have it: dense, removed weights zero."""


@dataclass(frozen=True)
class Engine:
    """An engine's entry in the registry.

    Attributes:
        build: Makes the population.
        capacity: Most individuals that it trains at once; None for any number.
    """

    build: Callable[[Problem, Sequence[Mask]], Population]
    capacity: int | None = None


ENGINES = {"module": Engine(ModulePopulation, capacity=1)}
