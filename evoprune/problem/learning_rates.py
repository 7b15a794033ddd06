"""Schedules of the learning rate, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from evoprune.errors import InputError
from evoprune.registry import Registry, describe

# Of one-cycle, as in torch: the part of the steps in which the rate rises, and its quotients of the highest rate at the first
# step and, once more, at the last.
RISING, FIRST, LAST = 0.3, 25.0, 1e4


@dataclass(frozen=True)
class Position:
    """A step of a training, as a schedule of the learning rate sees it.

    Attributes:
        step: Number of the step, from 0.
        steps: Number of all steps of all epochs.
        warmup: Number of the steps of the warm-up, which come first.
        milestones: The steps at which ``milestones`` multiplies the rate.
        gamma: Its factor.
    """

    step: int
    steps: int
    warmup: int = 0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    @property
    def progress(self) -> float:
        """Progress in [0, 1) through the steps that follow the warm-up; 0 until it ends."""
        return max(0, self.step - self.warmup) / (self.steps - self.warmup)


# The learning rate at a position, as a factor of the recipe's.
Factor: TypeAlias = Callable[[Position], float]


def factor_at(factor: Factor, position: Position) -> float:
    """Returns a schedule's factor at a position, with the warm-up.

    In a warm-up of w steps, step i has (i + 1) / (w + 1) of the rate: a line from 0, one step before the first, to the rate at
    the first step after it (Goyal et al. 2017, arXiv:1706.02677, section 2.2).
    """
    ramp = min(1.0, (position.step + 1) / (position.warmup + 1))
    return ramp * factor(position)


def milestones(position: Position) -> float:
    """Returns a factor for each milestone that is passed (He et al. 2016, arXiv:1512.03385, section 4.2).

    The milestones are counted from the start of training, warm-up included.
    """
    return position.gamma ** sum(position.step >= at - 1e-6 for at in position.milestones)


def one_cycle(position: Position) -> float:
    """Returns the factor of one cycle: up to 1, and down to almost 0 (Smith and Topin 2018, arXiv:1708.07120).

    It is that of ``torch.optim.lr_scheduler.OneCycleLR`` with its defaults: half a cosine each way. The momentum stays.
    """
    top, end = RISING * position.steps - 1, position.steps - 1
    if position.step <= top:
        return _between(1 / FIRST, 1.0, position.step / top)
    return _between(1.0, 1 / FIRST / LAST, (position.step - top) / (end - top))


def _between(first: float, last: float, part: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class OfProgress:
    """A schedule that is a function of progress alone, from 0 up to 1, such as one of a user's.

    Attributes:
        function: Returns the factor of the recipe's learning rate.
    """

    function: Callable[[float], float]

    def __call__(self, position: Position) -> float:
        """Returns the factor at a position."""
        return float(self.function(position.progress))


def own_schedule(given: Any) -> OfProgress:
    """Returns a user's schedule as an entry of the registry.

    Raises:
        InputError: It is no function of progress that returns finite numbers of at least 0.
    """
    cure = "expected a function of the progress, from 0 up to 1, that returns a factor of lr, such as lambda t: 1 - t"
    if not callable(given):
        raise InputError(f"the schedule of the learning rate is {describe(given)}; {cure}.")
    for progress in (i / 100 for i in range(100)):
        try:
            factor = float(given(progress))
        except Exception as error:
            raise InputError(
                f"the schedule {describe(given)} fails at a progress of {progress}: {type(error).__name__}: {error}; {cure}."
            ) from error
        if not 0 <= factor < math.inf:
            raise InputError(f"the schedule {describe(given)} returns {factor} at a progress of {progress}; {cure}.")
    return OfProgress(given)


# Schedules of the learning rate: functions of the position, each a factor of the recipe's learning rate.
LEARNING_RATES: Registry[Factor] = Registry(
    "schedule",
    {
        "constant": OfProgress(lambda progress: 1.0),
        "cosine": OfProgress(lambda progress: 0.5 * (1 + math.cos(math.pi * progress))),
        "linear": OfProgress(lambda progress: 1 - progress),
        "milestones": milestones,
        "one-cycle": one_cycle,
    },
    own_schedule,
    meant={"step": "milestones", "multistep": "milestones", "multi-step-lr": "milestones", "none": "constant"},
)
