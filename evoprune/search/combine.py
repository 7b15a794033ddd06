"""The combination: k-starts to a first sparsity, then dissipating gradients to the final one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.course import chunk_size_of, run
from evoprune.search.dissipate import Removals, removals_within
from evoprune.search.final import Plan
from evoprune.search.history import History
from evoprune.search.kstarts import Starts, check_k
from evoprune.search.method import Cost
from evoprune.search.options import SearchOptions
from evoprune.search.session import Session
from evoprune.system.memory import require_memory
from evoprune.training.dissipation import Dissipation, densities
from evoprune.training.final import FinalTraining


@dataclass(frozen=True)
class CombineOptions(Removals, SearchOptions):
    """Options of the combination."""

    k: int = 2
    """Number of random masks. More of them cost more than they were seen to gain; see RESULTS.md."""
    first_sparsity: float = 0.5
    """Sparsity of the random masks."""
    fitness_epochs: int = 1
    """Epochs of the brief training: the first of --epochs. 0 judges untrained networks, by loss, accuracy or magnitude."""
    select: Literal["start", "end"] = "start"
    """When to choose: start (before any weight dissipates) or end (among the masks that dissipated in the brief training)."""


class Combine:
    """Combination: k-starts to a first sparsity, then dissipating gradients to the final one (arXiv:2209.02201).

    Args:
        session: The session.
        options: The options.
    """

    Options = CombineOptions

    def __init__(self, session: Session, options: CombineOptions) -> None:
        self.starts = Starts(session, options, options.first_sparsity)

    @property
    def finished(self) -> bool:
        """Whether the masks were evaluated."""
        return bool(self.starts.rated)

    def ask(self) -> list[Mask]:
        """Returns k random masks of the first sparsity."""
        return self.starts.draw()

    def tell(self, masks: Sequence[Mask]) -> None:
        """Takes the masks with their fitness."""
        self.starts.rated = list(masks)

    def chosen(self) -> dict[str, Mask]:
        """Returns the fittest mask and the controls, as they were before any weight dissipated."""
        return self.starts.chosen()

    def report(self, history: History, trainings: Mapping[str, FinalTraining]) -> dict[str, Any]:
        """Returns the cost of the search, its failures, and the rank correlation of fitness and accuracy."""
        return self.starts.report(self.plan(self.starts.session.problem, self.starts.options), trainings["winner"])

    @staticmethod
    def evaluator(problem: Problem, options: CombineOptions) -> dict[str, Any]:
        """Returns the sparsity of the first masks, and the removals during the brief training."""
        dissipation = dissipation_of(problem, options) if options.select == "end" else None
        return {"sparsity": options.first_sparsity, "dissipation": dissipation}

    @staticmethod
    def plan(problem: Problem, options: CombineOptions) -> Plan:
        """Returns how winner and controls are trained; the brief training is repeated on its engine, bit for bit."""
        dissipation = dissipation_of(problem, options)
        return Plan(options.restart, dissipation.start, dissipation.last, options.fitness_epochs, options.k > 1)

    @staticmethod
    def require(problem: Problem, options: CombineOptions) -> None:
        """Checks the options.

        Raises:
            InputError: A value out of range, or removals that do not fit the recipe.
        """
        check_k(options.k)
        require_memory(options.k * problem.prunable_count, f"k is {options.k:,}: its masks")
        if options.select == "end" and options.fitness_epochs == 0:
            raise InputError("select is 'end' with fitness_epochs 0, in which no weight dissipates; expected at least 1.")
        dissipation_of(problem, options).require(problem, options.first_sparsity)

    @staticmethod
    def settings(problem: Problem, options: CombineOptions) -> dict[str, Any]:
        """Returns the options as a run records them."""
        names = ("layer_densities", "fitness", "fitness_epochs", "k", "restart", "controls", "select")
        return {
            **{name: getattr(options, name) for name in names},
            "sparsity": float(options.first_sparsity),
            "chunk_size": chunk_size_of(options),
            "dissipation": dissipation_of(problem, options).recorded(),
        }

    @staticmethod
    def evaluations(problem: Problem, options: CombineOptions) -> int:
        """Returns the number of evaluations."""
        return options.k

    @staticmethod
    def cost(problem: Problem, options: CombineOptions) -> Cost:
        """Returns the planned cost: the density falls from a start's to the final one."""
        first, density = 1 - options.first_sparsity, 1 - options.sparsity
        brief = options.fitness_epochs

        def cost(epochs: int) -> float:
            removals = removals_within(epochs, options, _first_removal(options))
            course = densities(first, density, removals, options.course)
            if options.select != "end":
                course = [first] * (brief - 1) + course
            course += [density] * (brief - len(course))
            least, others = max(1, len(course)), (options.k - 1) * sum(course[:brief])
            return math.inf if epochs < least else others + sum(course) + (epochs - len(course)) * density

        return cost


def dissipation_of(problem: Problem, options: CombineOptions) -> Dissipation:
    """Returns the removals that the options describe.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    first = _first_removal(options)
    removals = removals_within(problem.recipe.epochs, options, first)
    return Dissipation(removals, options.sparsity, None, options.movement, options.scope, first, options.course)


def _first_removal(options: CombineOptions) -> int:
    """Returns the epoch at whose end the first removal is."""
    return max(1, options.fitness_epochs) if options.select == "start" else 1


def combine(problem: Problem, **options: Any) -> Result:
    """Searches by k-starts to a first sparsity, and continues to the final one by dissipating gradients (arXiv:2209.02201).

    ::

        masks = k random masks of the first sparsity
        fitness = briefly train each masked network from W0
        winner = the fittest mask
        continue training the winner; at the end of each of the next epochs, remove the weights that moved least

    With ``select="end"`` the masks dissipate during the brief training already, and the fittest of the results wins.

    Args:
        problem: The problem; its recipe's epochs include the brief training and the dissipating.
        **options: Fields of :class:`evoprune.search.combine.CombineOptions` and of
            :class:`evoprune.search.execution.Execution`.

    Returns:
        The winner, its trained network, the controls and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the winner's final training diverged.
    """
    return run("combine", Combine, problem, options)
