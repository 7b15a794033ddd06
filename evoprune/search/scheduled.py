"""Schedules of masks as methods: train a network while its mask changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any

import numpy as np

from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.search.final import Plan
from evoprune.search.method import Cost, Found
from evoprune.search.session import Session
from evoprune.training.registry import SCHEDULES
from evoprune.training.schedule import Schedule, initial_mask


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
        factory: Makes the schedule of a problem and a sparsity, and of its options if it has ``Options``. Its
            ``first_sparsity``, if it has one, is the sparsity of the random mask with which training begins, with ERK's layer
            densities; otherwise training begins dense.
    """
    chosen = options_of(factory)

    class Scheduled:
        Options = chosen

        def __init__(self, session: Session, options: Any) -> None:
            self.session, self.options = session, options

        def find(self) -> Found:
            problem = self.session.problem
            return Found(initial_mask(make(factory, problem, self.options), problem, self.session.seed))

        @staticmethod
        def plan(problem: Problem, options: Any) -> Plan:
            last = getattr(make(factory, problem, options), "last", problem.recipe.epochs)
            return Plan(options.restart, partial(make, factory, problem, options), last, free_after=0)

        @staticmethod
        def require(problem: Problem, options: Any) -> None:
            survivors_of(options.sparsity, problem.prunable_count)
            make(factory, problem, options)  # refuses bad values now

        @staticmethod
        def own(options: Any) -> dict[str, object]:
            return {f"schedule {name}": factory} if name in SCHEDULES.own else {}

        @staticmethod
        def cost(problem: Problem, options: Any) -> Cost:
            if hasattr(factory, "cost"):
                planned: Cost = factory.cost(problem, options.sparsity, options.schedule)
                return planned
            # a mean; only the schedule knows its course
            return lambda epochs: float(np.mean([1.0, 1 - options.sparsity])) * epochs

    Scheduled.__name__, Scheduled.__doc__ = name, factory.__doc__ or f"The schedule of masks {name}."
    return Scheduled


def options_of(factory: Callable[..., Any]) -> type[Any]:
    """Returns the dataclass of the options of a schedule as a method: the schedule's are in its field ``schedule``."""
    own: type[Any] | None = getattr(factory, "Options", None)
    if own is None:
        return ScheduledOptions
    fields = [("schedule", own, field(default_factory=own))]
    namespace = {"__doc__": ScheduledOptions.__doc__, "__module__": __name__}
    return make_dataclass("ScheduledOptions", fields, bases=(ScheduledOptions,), frozen=True, namespace=namespace)


def make(factory: Callable[..., Any], problem: Problem, options: Any) -> Schedule:
    """Returns the schedule of one training."""
    own = (options.schedule,) if hasattr(options, "schedule") else ()
    made: Schedule = factory(problem, options.sparsity, *own)
    return made
