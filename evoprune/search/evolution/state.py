"""The state of an evolution between two generations."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

import numpy as np
from deap import tools

from evoprune.masks.mask import Mask
from evoprune.search.evolution.lineage import Lineage, ancestors, key_of


@dataclass
class State:
    """The state of an evolution between two generations.

    Attributes:
        population: The masks, with fitness and evidence.
        hall_of_fame: The fittest masks so far; with several objectives the Pareto front.
        variation: Stream of mutation and crossover.
        selection: Stream of DEAP's selection and variation, which draw from the global ``random``.
        gen: The generation that comes next.
        logbook: A record for each generation.
        bests: The fittest mask so far, with the generation, for each generation in which a fitter one was found.
        improved: The last generation with a fitter mask, or, with several objectives, with another Pareto front.
        seconds: Time spent so far, in all sessions.
        pending: The chunks that are being evaluated, in a steady-state evolution.
        exhausted: Whether no new child was found, in a steady-state evolution.
        lineage: The births of the masks above and of their ancestors.
    """

    population: list[Mask]
    hall_of_fame: tools.HallOfFame
    variation: np.random.Generator
    selection: random.Random
    gen: int = 0
    logbook: tools.Logbook = field(default_factory=tools.Logbook)
    bests: list[tuple[int, Mask]] = field(default_factory=list)
    improved: int = 0
    seconds: float = 0.0
    pending: list[list[Mask]] = field(default_factory=list)
    exhausted: bool = False
    lineage: Lineage = field(default_factory=dict)

    def copy(self) -> State:
        """Returns a copy that stays as it is while a search goes on; masks with fitness are shared, for they stay the same."""
        masks = (*self.population, *self.hall_of_fame, *(mask for _, mask in self.bests))
        return copy.deepcopy(self, {id(mask): mask for mask in masks})

    def forget_the_dead(self) -> None:
        """Removes the births of masks that are neither alive, among the fittest or pending, nor ancestors of such masks."""
        pending = (mask for chunk in self.pending for mask in chunk)
        alive = (*self.population, *self.hall_of_fame, *(mask for _, mask in self.bests), *pending)
        self.lineage = ancestors(self.lineage, map(key_of, alive))
