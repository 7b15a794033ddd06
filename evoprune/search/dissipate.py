"""Dissipating gradients: train the dense network, and remove the weights that barely moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from evoprune.baselines.random_masks import dense
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.course import run
from evoprune.search.final import Plan
from evoprune.search.method import Cost, Found
from evoprune.search.session import Session
from evoprune.training.dissipation import Dissipation, densities
from evoprune.training.registry import DISSIPATE_EPOCHS


@dataclass(frozen=True)
class Removals:
    """Options of dissipating gradients."""

    dissipate_epochs: int | None = None
    """Number of removals, one at the end of each of so many epochs. None: 8, but in a short recipe in the first half of its
    epochs, since the network recovers from the last removal in the epochs after it."""
    movement: Literal["absolute", "relative", "random", "magnitude"] = "absolute"
    """Which weights go: absolute (those of small |w - w0|), relative (those of small |w - w0| / |w0|: the paper's words),
    random, or magnitude (those of small |w|); the last two are controls."""
    scope: Literal["global", "layer"] = "global"
    """global: one threshold for all layers; layer: every layer loses the same fraction of its survivors."""
    course: Literal["geometric", "cubic"] = "geometric"
    """How the density falls to that of a given sparsity: geometric (by the same factor each time) or cubic (as in gradual
    pruning: fast at first)."""


@dataclass(frozen=True)
class DissipateOptions(Removals):
    """Options of dissipating gradients as a method."""

    sparsity: float | None = None
    """Fraction of the prunable weights to remove, at least 0 and below 1. None: 0.9, or with --fraction whatever results."""
    fraction: float | None = None
    """Remove the weights that moved by at most this fraction (of |w0|, or of the mean |w0|), instead of a given sparsity."""
    restart: bool = False
    """Train the remaining weights from their initial values with another order of the batches, instead of continuing."""


class Dissipate:
    """Dissipating gradients: train the dense network, and remove in its first epochs the weights that barely moved.

    The source is arXiv:2209.02201.

    Args:
        session: The session.
        options: The options.
    """

    Options = DissipateOptions

    def __init__(self, session: Session, options: DissipateOptions) -> None:
        self.session = session

    def find(self) -> Found:
        """Returns the dense mask, which dissipates while it is trained."""
        return Found(dense(self.session.problem))

    @staticmethod
    def plan(problem: Problem, options: DissipateOptions) -> Plan:
        """Returns how the network is trained."""
        dissipation = dissipation_of(problem, options)
        return Plan(options.restart, dissipation.start, dissipation.last, free_after=0)

    @staticmethod
    def name_of(options: DissipateOptions) -> str:
        """Returns the name in records: removing weights at random is the control, and no dissipating."""
        return "random-dropout" if options.movement == "random" else "dissipate"

    @staticmethod
    def require(problem: Problem, options: DissipateOptions) -> None:
        """Checks the options.

        Raises:
            InputError: A value out of range, or removals that do not fit the recipe.
        """
        dissipation_of(problem, options).require(problem, 0.0)

    @staticmethod
    def settings(problem: Problem, options: DissipateOptions) -> dict[str, Any]:
        """Returns the options as a run records them."""
        return {**dissipation_of(problem, options).recorded(), "restart": options.restart}

    @staticmethod
    def cost(problem: Problem, options: DissipateOptions) -> Cost:
        """Returns the planned cost."""
        density = 1 - (0.9 if options.sparsity is None else options.sparsity)

        def cost(epochs: int) -> float:
            removals = removals_within(epochs, options)
            course = densities(1.0, density, removals, options.course)
            return math.inf if epochs < removals else sum(course) + (epochs - removals) * density

        return cost


def removals_within(epochs: int, options: Removals, first: int = 1) -> int:
    """Returns the number of removals in a recipe.

    Args:
        epochs: The recipe's epochs.
        options: The options.
        first: The epoch at whose end the first removal is.
    """
    usual = max(1, min(DISSIPATE_EPOCHS, (epochs + 1) // 2, epochs - first + 1))
    return usual if options.dissipate_epochs is None else options.dissipate_epochs


def dissipation_of(problem: Problem, options: DissipateOptions) -> Dissipation:
    """Returns the removals that the options describe.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    sparsity = 0.9 if options.sparsity is None and options.fraction is None else options.sparsity
    removals = removals_within(problem.recipe.epochs, options)
    return Dissipation(removals, sparsity, options.fraction, options.movement, options.scope, course=options.course)


def dissipate(problem: Problem, **options: Any) -> Result:
    """Trains the dense network, and removes in the first epochs the weights that barely moved (arXiv:2209.02201).

    ::

        for each epoch of the recipe:
            train the network
            in the first epochs: remove the survivors that moved least, for good

    Args:
        problem: The problem; its recipe's epochs include the dissipating.
        **options: Fields of :class:`evoprune.search.dissipate.DissipateOptions` and of
            :class:`evoprune.search.execution.Execution`.

    Returns:
        The mask, its trained network and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: The final training diverged.
    """
    return run("dissipate", Dissipate, problem, options)
