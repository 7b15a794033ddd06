"""Gradual magnitude pruning: the sparsity rises by a cubic schedule while the network trains (Zhu and Gupta 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.training.ranking import layer_numbers, without_last
from evoprune.training.schedule import Moment


@dataclass(frozen=True)
class GradualOptions:
    """Options of gradual magnitude pruning."""

    first_sparsity: float = 0.0
    """Sparsity of the random mask (ERK) that training begins with; 0 begins with the dense network."""
    prune_until: float = 0.5
    """Part of the recipe's epochs in which the sparsity rises, above 0 and at most 1."""
    every: int | None = None
    """Steps from one removal to the next. None: one removal at the end of each epoch."""
    scope: Literal["global", "layer"] = "global"
    """global: the smallest weights of all layers go; layer: every layer loses the same fraction of its survivors."""
    layer_factors: tuple[float, ...] = ()
    """A factor for each prunable layer, by which its |w| are multiplied before they are compared. Empty: 1 for each."""


class Gradual:
    """Gradual magnitude pruning: in the first half of training, remove the smallest weights by a cubic schedule.

    The sparsity after removal i of n is s + (s_0 - s) (1 - i / n)^3 (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1), s_0 the
    first sparsity and s the last.

    Args:
        problem: The problem; its recipe says how long the training is.
        sparsity: Sparsity after the last removal.
        options: The options; None for the defaults.

    Attributes:
        log: After each removal, a list with each individual's :func:`describe_change`.
        last: The epoch of the last removal.

    Raises:
        InputError: A value out of range.
    """

    Options = GradualOptions

    def __init__(self, problem: Problem, sparsity: float, options: GradualOptions | None = None) -> None:
        self.options = options = options or GradualOptions()
        require_clock(options.every, options.prune_until, "prune_until")
        require_rise(problem, options.first_sparsity, sparsity)
        factors = options.layer_factors or (1.0,) * len(problem.shapes)
        if len(factors) != len(problem.shapes) or not all(math.isfinite(factor) and factor > 0 for factor in factors):
            raise InputError(f"layer_factors are {factors}; expected {len(problem.shapes)} positive numbers, one a layer.")
        self._factors = np.array(factors)[layer_numbers(problem.shapes)] if options.layer_factors else None
        self.sparsity, self.first_sparsity, self.every = sparsity, options.first_sparsity, options.every
        self._interval = options.every or steps_of(problem)
        self._count = removals_in(problem, self._interval, options.prune_until)
        self.last = -(-self._count * self._interval // steps_of(problem))
        self.log: list[list[dict[str, Any]]] = []

    def masks_after(self, moment: Moment) -> list[Mask] | None:
        """Returns the masks without their smallest weights; None after the last removal."""
        number = moment.step // self._interval
        if number > self._count:
            return None
        target = cubic(number / self._count, self.first_sparsity, self.sparsity, moment.problem.prunable_count)
        masks = [
            keep_largest(moment, k, target, self.options.scope, self._factors) for k in range(len(moment.population.masks))
        ]
        self.log.append([describe_change(moment, k, mask) for k, mask in enumerate(masks)])
        return masks

    @staticmethod
    def cost(problem: Problem, sparsity: float, options: GradualOptions) -> Callable[[int], float]:
        """Returns the planned cost as a function of the recipe's epochs, in epochs of dense training."""
        return lambda epochs: _gradual_cost(problem, sparsity, options, epochs)


def _gradual_cost(problem: Problem, sparsity: float, options: GradualOptions, epochs: int) -> float:
    count = changes_in(problem, epochs, options.every, options.prune_until)
    length = (options.every or steps_of(problem)) / steps_of(problem)  # of an interval, in epochs
    if count * length > epochs:
        return math.inf  # refused
    n, first = problem.prunable_count, options.first_sparsity
    falling = sum(cubic(i / count, first, sparsity, n) for i in range(count)) / n
    return length * falling + (epochs - count * length) * (1 - sparsity)


def cubic(progress: float, first: float, last: float, n: int) -> int:
    """Returns how many of n weights survive under the cubic schedule (Zhu and Gupta 2017, eq. 1).

    Args:
        progress: From 0 to 1.
        first: Sparsity at the beginning.
        last: Sparsity at the end.
        n: Number of prunable weights.
    """
    if progress >= 1:
        return survivors_of(last, n)
    return max(survivors_of(last, n), survivors_of(last + (first - last) * (1 - progress) ** 3, n))


def keep_largest(moment: Moment, k: int, target: int, scope: str, factors: NDArray[np.float64] | None = None) -> Mask:
    """Returns the mask of an individual with so many survivors, those of the largest |w|; of equal ones, the first stay.

    Args:
        moment: The moment.
        k: The individual.
        target: How many survivors stay.
        scope: The part that loses the same fraction; see :class:`GradualOptions`.
        factors: A factor for each prunable weight [n], by which |w| is multiplied; None for 1.
    """
    mask = moment.population.masks[k]
    if mask.survivors <= target:
        return mask
    values = moment.population.survivor_values(k, moment.population.weights).cpu().numpy()
    scores = np.abs(values) if factors is None else np.abs(values) * factors[mask.bits]
    order = np.argsort(-scores, kind="stable")[::-1]
    return without_last(mask, order, target, scope)


def describe_change(moment: Moment, k: int, mask: Mask) -> dict[str, Any]:
    """Describes the change of an individual's mask in JSON values.

    Returns:
        ``epoch`` and ``step`` of the change, ``survivors`` after it, ``layers`` (survivors by name), and the numbers of weights
        that were ``dropped`` and ``grown``.
    """
    before = moment.population.masks[k]
    return {
        "epoch": moment.epoch,
        "step": moment.step,
        "survivors": mask.survivors,
        "layers": {name: int(np.count_nonzero(layer)) for name, layer in mask.layers.items()},
        "dropped": int(np.count_nonzero(before.bits & ~mask.bits)),
        "grown": int(np.count_nonzero(mask.bits & ~before.bits)),
    }


def steps_of(problem: Problem) -> int:
    """Returns the number of steps in an epoch."""
    return -(-len(problem.part("train")[0]) // problem.recipe.batch_size)


def changes_in(problem: Problem, epochs: int, every: int | None, until: float) -> int:
    """Returns how many changes of masks there are in the first part of a training, at least one.

    Args:
        problem: The problem.
        epochs: Epochs of the training.
        every: Steps from one change to the next; None for an epoch's.
        until: The part, from 0 to 1.
    """
    steps = steps_of(problem)
    return max(1, int(until * epochs * steps / (every or steps) + 1e-9))


def removals_in(problem: Problem, interval: int, until: float) -> int:
    """Returns how many removals there are in the first part of the recipe's training, at least one.

    Raises:
        InputError: The training ends before the first.
    """
    steps = problem.recipe.epochs * steps_of(problem)
    if interval > steps:
        raise InputError(
            f"every is {interval}, but the training has {steps} steps, so that no weight would be removed; lower every, or "
            f"raise epochs."
        )
    return changes_in(problem, problem.recipe.epochs, interval, until)


def require_clock(every: int | None, until: float, name: str) -> None:
    """Checks when masks change.

    Raises:
        InputError: ``every`` is no positive number of steps, or the part of the training is not above 0 and at most 1.
    """
    if every is not None and (isinstance(every, bool) or not isinstance(every, (int, np.integer)) or every < 1):
        raise InputError(f"every is {every!r}; expected a positive number of steps, or None for one change an epoch.")
    if not (math.isfinite(until) and 0 < until <= 1):
        raise InputError(f"{name} is {until!r}; expected a part of the training, above 0 and at most 1, such as 0.5.")


def require_rise(problem: Problem, first: float, last: float) -> None:
    """Checks that the sparsity rises from the first to the last.

    Raises:
        InputError: A sparsity out of range, or the first is above the last.
    """
    if survivors_of(first, problem.prunable_count) < survivors_of(last, problem.prunable_count):
        raise InputError(f"first_sparsity is {first} and sparsity {last}; expected to end at a sparsity that is not lower.")
