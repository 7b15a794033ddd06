"""The registry of schedules of masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from evoprune.problem.problem import Problem
from evoprune.registry import Registry
from evoprune.training.dissipation import Dissipating, Dissipation
from evoprune.training.gradual import Gradual
from evoprune.training.regrowth import SET, GraNet, RigL
from evoprune.training.schedule import Schedule

# Makes the schedule of one training, of a problem and the sparsity at the end. It may have an attribute ``Options``, a frozen
# dataclass whose values are then its third argument, and ``cost(problem, sparsity, options)``, its planned cost as a function
# of the recipe's epochs.
MakeSchedule: TypeAlias = Callable[..., Schedule]

# Removals of dissipating gradients unless the user says how many.
DISSIPATE_EPOCHS = 8


def dissipate(problem: Problem, sparsity: float) -> Dissipating:
    """Dissipating gradients in the first eight epochs, or as many as the recipe has (arXiv:2209.02201)."""
    return Dissipation(min(DISSIPATE_EPOCHS, problem.recipe.epochs), sparsity).start()


SCHEDULES: Registry[MakeSchedule] = Registry(
    "schedule", {"dissipate": dissipate, "gmp": Gradual, "set": SET, "rigl": RigL, "granet": GraNet}
)
