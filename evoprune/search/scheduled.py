"""Schedules of masks as methods: train a network while its mask changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.search.final import Plan
from evoprune.search.method import Cost, Found
from evoprune.search.session import Session
from evoprune.training.registry import SCHEDULES
from evoprune.training.schedule import initial_mask


@dataclass(frozen=True)
class ScheduledOptions:
    """Options of a schedule of masks as a method."""

    sparsity: float = 0.9
    """Sparsity at the end of the schedule, at least 0 and below 1."""
    restart: bool = False
    """Train the mask that results again, from its initial weights with another order of the batches."""


def method_of(name: str, factory: Callable[..., Any]) -> type[Any]:
    """Returns a schedule of masks as a method.

    Args:
        name: The schedule's name.
        factory: Makes the schedule of a problem and a sparsity. Its ``first_sparsity``, if it has one, is the sparsity of the
            random mask with which training begins, with ERK's layer densities; otherwise training begins dense.
    """

    class Scheduled:
        Options = ScheduledOptions

        def __init__(self, session: Session, options: ScheduledOptions) -> None:
            self.session, self.options = session, options

        def find(self) -> Found:
            problem = self.session.problem
            return Found(initial_mask(factory(problem, self.options.sparsity), problem, self.session.seed))

        @staticmethod
        def plan(problem: Problem, options: ScheduledOptions) -> Plan:
            return Plan(options.restart, partial(factory, problem, options.sparsity), problem.recipe.epochs, free_after=0)

        @staticmethod
        def require(problem: Problem, options: ScheduledOptions) -> None:
            survivors_of(options.sparsity, problem.prunable_count)
            factory(problem, options.sparsity)  # refuses bad values now

        @staticmethod
        def own(options: ScheduledOptions) -> dict[str, object]:
            return {f"schedule {name}": factory} if name in SCHEDULES.own else {}

        @staticmethod
        def cost(problem: Problem, options: ScheduledOptions) -> Cost:
            return lambda epochs: (
                float(np.mean([1.0, 1 - options.sparsity])) * epochs
            )  # a mean; only the schedule knows its course

    Scheduled.__name__, Scheduled.__doc__ = name, factory.__doc__ or f"The schedule of masks {name}."
    return Scheduled
