"""The history of a search: its generations, and its fittest masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deap import tools

from evoprune.masks.mask import Mask


@dataclass
class History:
    """The generations of a search.

    Attributes:
        logbook: A record for each generation.
        population: The last generation, with fitness.
        hall_of_fame: The fittest masks of all generations; with several objectives the Pareto front.
        bests: Rows of ``bests.csv``: the fittest masks as of single generations, trained fully.
        fittest: The fittest mask so far; None before the first generation.
    """

    logbook: tools.Logbook = field(default_factory=tools.Logbook)
    population: list[Mask] = field(default_factory=list)
    hall_of_fame: list[Mask] = field(default_factory=list)
    bests: list[dict[str, Any]] = field(default_factory=list)
    fittest: Mask | None = None

    @property
    def winner(self) -> Mask:
        """The fittest mask of all."""
        assert self.fittest is not None, "no generation was made"
        return self.fittest

    def enter(self, masks: Sequence[Mask]) -> Mask:
        """Lets a generation take the place of the one before, and returns the fittest mask so far."""
        self.population = list(masks)
        self.fittest = tools.selBest(([] if self.fittest is None else [self.fittest]) + self.population, 1)[0]
        return self.fittest
