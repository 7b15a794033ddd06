"""Early stopping: a final training ends when the validation no longer gets better, with the result of its best epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from evoprune.engines.population import Population
from evoprune.masks.mask import Mask
from evoprune.problem.metrics import stopping_of
from evoprune.problem.problem import Problem
from evoprune.training.history import Row
from evoprune.training.schedule import Schedule


@dataclass(frozen=True)
class Best:
    """An individual as it was after its best epoch.

    Attributes:
        epoch: The epoch, counted from 1.
        value: The validation by which training stops, larger is better; -inf if it was not finite.
        mask: Its mask.
        state: Its ``state_dict``.
    """

    epoch: int
    value: float
    mask: Mask
    state: dict[str, Tensor]


class EarlyStopping:
    """Early stopping of each of K individuals that are trained together.

    Source: Goodfellow, Bengio and Courville 2016, "Deep Learning", algorithm 7.1, with one evaluation an epoch.

    An individual stops after ``stop_patience`` epochs without a better validation. Epochs count from the one on after which the
    schedule leaves the masks as they are; those before a snapshot that the training continues from do not count. All
    individuals are trained until the last one stops.

    Args:
        problem: The problem; its recipe has a ``stop_patience``.
        size: Number of individuals, K.
        schedule: Changes the masks; None for no change.

    Attributes:
        best: The best epoch of each individual; None before its first that counts.
        stopped: The epoch after which each stopped; None for those that did not stop.
    """

    def __init__(self, problem: Problem, size: int, schedule: Schedule | None) -> None:
        assert problem.recipe.stop_patience is not None
        self._patience, (self._column, self._sign) = problem.recipe.stop_patience, stopping_of(problem)
        self._first = 1 if schedule is None else max(1, getattr(schedule, "last", problem.recipe.epochs))
        self._last = problem.recipe.epochs
        self.best: list[Best | None] = [None] * size
        self.stopped: list[int | None] = [None] * size

    def after_epoch(self, epoch: int, population: Population, rows: Sequence[Row]) -> bool:
        """Takes the rows of an epoch, one an individual, and returns whether all have stopped."""
        for k, row in enumerate(rows):
            if epoch < self._first or self.stopped[k] is not None:
                continue
            found, best = row[self._column], self.best[k]
            value = -math.inf if found is None else self._sign * found
            if best is None or value > best.value:
                best = self.best[k] = Best(epoch, value, population.masks[k], population.state(k))
            if epoch - best.epoch >= self._patience and epoch < self._last:
                self.stopped[k] = epoch
        return None not in self.stopped
