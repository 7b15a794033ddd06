"""Schedules of masks: how masks change while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evoprune import seeds
from evoprune.engines.population import Population
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask
from evoprune.problem.problem import Problem


@dataclass(frozen=True)
class Moment:
    """A moment of a training, as a schedule sees it.

    Attributes:
        problem: The problem.
        population: The networks; ``population.masks`` are their masks, which a schedule leaves as they are.
        epoch: Number of finished epochs.
        step: Number of steps done in all.
        seed: The training's seed: a schedule draws from ``numpy.random.default_rng([moment.seed, moment.step])``.
        gradients: Returns for individual k the size of the loss's gradient in all prunable weights [n], the removed ones
            included; see :func:`evoprune.training.gradient.dense_gradient`. It is computed, and its cost counted, when it is
            called; each step has another batch.
    """

    problem: Problem
    population: Population
    epoch: int
    step: int
    seed: int
    gradients: Callable[[int], NDArray[np.floating[Any]]]

    def weights(self, k: int) -> NDArray[np.floating[Any]]:
        """Returns the prunable weights [n] of individual k, removed ones zero."""
        values = self.population.survivor_values(k, self.population.weights).cpu().numpy()
        found = np.zeros(self.problem.prunable_count, values.dtype)
        found[self.population.masks[k].bits] = values
        return found


class Schedule(Protocol):
    """How masks change during one training: it may remove weights, and let others grow from zero.

    A schedule belongs to one training, so it may count and remember. It may also have these attributes:

    - ``first_sparsity``: Sparsity of the random mask (ERK) to begin with; without it, training begins dense.
    - ``last``: The epoch after which the masks stay; without it, the recipe's last.
    - ``log``: For each change of the masks a list with a dictionary of JSON values for each individual, which runs record.

    Attributes:
        every: Number of steps from one call to the next; None for a call at the end of each epoch.
    """

    every: int | None

    def masks_after(self, moment: Moment) -> Sequence[Mask] | None:
        """Returns the masks from now on, one an individual; None leaves them as they are."""


def initial_mask(schedule: Schedule, problem: Problem, seed: int) -> Mask:
    """Returns the mask that a training under a schedule begins with.

    Args:
        schedule: The schedule; its ``first_sparsity`` is used, if it has one.
        problem: The problem.
        seed: Seed of the run, whose stream ``masks`` a random mask is drawn from.
    """
    sparsity = getattr(schedule, "first_sparsity", 0.0)
    if not sparsity:
        return Mask(np.ones(problem.prunable_count, bool), problem.shapes)
    return random_mask(problem.shapes, sparsity, seeds.generator(seed, "masks"), "erk")
