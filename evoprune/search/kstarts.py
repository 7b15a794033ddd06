"""k-starts: k random masks, trained briefly; the fittest is trained fully."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from deap import tools

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result, rank_correlation
from evoprune.search.course import run
from evoprune.search.final import Plan
from evoprune.search.history import History
from evoprune.search.method import Cost
from evoprune.search.options import SearchOptions
from evoprune.search.report import describe_failures
from evoprune.search.session import Session
from evoprune.system.memory import require_memory
from evoprune.training.final import FinalTraining


@dataclass(frozen=True)
class KStartsOptions(SearchOptions):
    """Options of k-starts."""

    k: int = 16
    """Number of random masks."""


class KStarts:
    """k-starts: train k random sparse networks briefly, and the fittest fully (arXiv:2209.02201).

    Args:
        session: The session.
        options: The options.
    """

    Options = KStartsOptions

    def __init__(self, session: Session, options: KStartsOptions) -> None:
        self.starts = Starts(session, options, options.sparsity)

    @property
    def finished(self) -> bool:
        """Whether the masks were evaluated."""
        return bool(self.starts.rated)

    def ask(self) -> list[Mask]:
        """Returns k random masks."""
        return self.starts.draw()

    def tell(self, masks: Sequence[Mask]) -> None:
        """Takes the masks with their fitness."""
        self.starts.rated = list(masks)

    def chosen(self) -> dict[str, Mask]:
        """Returns the fittest mask and the controls."""
        return self.starts.chosen()

    def report(self, history: History, trainings: Mapping[str, FinalTraining]) -> dict[str, Any]:
        """Returns the cost of the search, its failures, and the rank correlation of fitness and accuracy."""
        return self.starts.report(self.plan(self.starts.session.problem, self.starts.options), trainings["winner"])

    @staticmethod
    def plan(problem: Problem, options: KStartsOptions) -> Plan:
        """Returns how winner and controls are trained."""
        return Plan(options.restart, chose=options.k > 1)

    @staticmethod
    def require(problem: Problem, options: KStartsOptions) -> None:
        """Checks the options.

        Raises:
            InputError: The number of starts is not a positive integer.
        """
        check_k(options.k)
        require_memory(options.k * problem.prunable_count, f"k is {options.k:,}: its masks")

    @staticmethod
    def evaluations(problem: Problem, options: KStartsOptions) -> int:
        """Returns the number of evaluations."""
        return options.k

    @staticmethod
    def cost(problem: Problem, options: KStartsOptions) -> Cost:
        """Returns the planned cost: k brief trainings, and the winner's other epochs."""
        density, brief = 1 - options.sparsity, options.fitness_epochs
        least = max(1, brief)
        return lambda epochs: math.inf if epochs < least else ((options.k - (not options.restart)) * brief + epochs) * density


class Starts:
    """The random masks of k-starts and of the combination, and the choice among them.

    Args:
        session: The session.
        options: Options with ``k``, ``layer_densities``, ``restart`` and ``controls``.
        sparsity: Sparsity of the masks.
    """

    def __init__(self, session: Session, options: Any, sparsity: float) -> None:
        self.session, self.options, self.sparsity = session, options, sparsity
        self.rated: list[Mask] = []

    def draw(self) -> list[Mask]:
        """Returns k random masks, always the same ones."""
        shapes, masks = self.session.problem.shapes, self.session.generator("masks")
        with self.session.bar(self.options.k, "masks", unit="mask", leave=False, delay=2) as bar:
            drawn = []
            for _ in range(self.options.k):
                drawn.append(random_mask(shapes, self.sparsity, masks, self.options.layer_densities))
                bar.update()
        return drawn

    @property
    def evaluations(self) -> list[Evaluation]:
        """The masks' evaluations, in their order."""
        return [self.session.evaluator.known[mask.hash] for mask in self.rated]

    def chosen(self) -> dict[str, Mask]:
        """Returns the fittest mask, and as controls a random one and the one of the least validation loss."""
        usable = [(mask, e) for mask, e in zip(self.rated, self.evaluations, strict=True) if not e.has_failed]
        winner = {"winner": tools.selBest([mask for mask, _ in usable], 1)[0]}
        if not self.options.controls:
            return winner
        drawn = int(self.session.generator("selection").integers(len(usable)))
        return winner | {"random": usable[drawn][0], "validation": min(usable, key=lambda pair: pair[1].validation_loss)[0]}

    def report(self, plan: Plan, training: FinalTraining) -> dict[str, Any]:
        """Returns the cost of the search, its failures, and the rank correlation of fitness and accuracy."""
        return {
            "k": self.options.k,
            **self._cost(plan, training),
            "spearman_rho": rank_correlation(self.rated, self.evaluations),
            **describe_failures(self.evaluations),
        }

    def _cost(self, plan: Plan, training: FinalTraining) -> dict[str, float]:
        """Returns the cost of winner and search. The part of the winner's evaluation that its training repeats counts once."""
        brief, epochs = self.session.evaluator.brief.epochs, training.epochs
        winner = self.session.evaluator.known[tools.selBest(self.rated, 1)[0].hash]
        distinct = {e.mask: e for e in self.evaluations}.values()
        last = max(brief, plan.last)
        search_epochs = len(distinct) * brief + last - brief
        evaluated = sum(e.multiply_adds for e in distinct if math.isfinite(e.multiply_adds))
        trained = training.search_cost if plan.restart else training.search_cost + training.cost(epochs)
        repeated = min(winner.multiply_adds, trained)  # it may have stopped before the end of the brief training
        return {
            "search_epochs": search_epochs,
            "total_epochs": search_epochs + epochs - (0 if plan.restart else min(last, epochs)),
            "multiply_adds": evaluated - repeated + training.search_cost + training.cost(epochs),
            "seconds": sum(e.seconds for e in self.evaluations) + training.seconds,
        }


def check_k(k: int) -> None:
    """Checks the number of starts.

    Raises:
        InputError: It is not a positive integer.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k is {k!r}; expected the number of starts, at least 1.")


def k_starts(problem: Problem, **options: Any) -> Result:
    """Trains k random sparse networks briefly from W0, and the fittest fully (arXiv:2209.02201).

    Two controls are trained in the same way: a random one of the k, and the one of the least validation loss::

        masks = k random masks
        fitness = briefly train each masked network from W0, for the first epochs of the recipe
        winner = the fittest mask
        continue training the winner for the rest of the recipe's epochs, and each control

    Brief training is deterministic, so the winner's training is continued by replaying it.

    Args:
        problem: The problem; its recipe's epochs include the brief training.
        **options: Fields of :class:`evoprune.search.kstarts.KStartsOptions` and of
            :class:`evoprune.search.execution.Execution`.

    Returns:
        The winner, its trained network, the controls and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the winner's final training diverged.
    """
    return run("kstarts", KStarts, problem, options)
