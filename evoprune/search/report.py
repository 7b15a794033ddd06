"""The summary of a search, for ``result.json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evoprune.evaluation.evaluation import NO_BETTER_THAN_CHANCE, Evaluation
from evoprune.masks.mask import Mask, fitness_of
from evoprune.runs.result import count_failures, describe_problem, describe_training
from evoprune.search.session import Session
from evoprune.training.final import FinalTraining
from evoprune.training.gradient import BATCH


@dataclass(frozen=True)
class Spent:
    """The cost of finding masks before any is evaluated.

    Attributes:
        search_epochs: Epochs of training.
        cost: Multiply-adds.
        seconds: Time.
    """

    search_epochs: float = 0.0
    cost: float = 0.0
    seconds: float = 0.0


def describe_search(
    session: Session, name: str, chosen: Mapping[str, Mask], trainings: Mapping[str, FinalTraining]
) -> dict[str, Any]:
    """Returns the part of a summary that all methods with a population share.

    Args:
        session: The session.
        name: Name of the method.
        chosen: Masks by role, as they were when the training began.
        trainings: Their trainings, by role.
    """
    problem, evaluator = session.problem, session.evaluator
    described = {role: describe_training(problem, mask, trainings[role]) for role, mask in chosen.items()}
    winner = chosen["winner"]
    return {
        "method": name,
        **describe_problem(problem, session.seed),
        **described.pop("winner"),
        "fitness": ", ".join(objective.name for objective in evaluator.objectives),
        "engine": ", ".join(dict.fromkeys([evaluator.brief.engine, *trainings["winner"].engines])),
        "winner_fitness": fitness_of(winner),
        "winner_status": evaluator.known[winner.key].status,
        "controls": described,
    }


def describe_failures(evaluations: Iterable[Evaluation]) -> dict[str, int]:
    """Returns how many masks failed, and how many were no better than chance."""
    evaluations = list(evaluations)
    chance = sum(evaluation.status == NO_BETTER_THAN_CHANCE for evaluation in evaluations)
    return {**count_failures(evaluations), "no_better_than_chance": chance}


def describe_cost(
    session: Session, restart: bool, training: FinalTraining, before: Spent = Spent(), winner: Mask | None = None
) -> dict[str, float]:
    """Returns the cost of search and training. The part of the winner's evaluation that its training repeats counts once.

    Args:
        session: The session, whose evaluator knows all evaluations.
        restart: The winner was trained again from W0.
        training: The winner's training.
        before: The cost of the first masks.
        winner: The winner, whose training may continue from a snapshot.
    """
    problem, evaluator = session.problem, session.evaluator
    brief, known, epochs = evaluator.brief, evaluator.known.values(), training.epochs
    n = len(problem.part("train")[0])
    each = brief.epochs + (min(BATCH, n) / n if brief.evidence else 0.0)
    search_epochs = before.search_epochs + len(known) * each
    continued = brief.epochs if winner is None or winner.snapshot is None else winner.snapshot.epochs
    repeated = 0 if restart else min(continued, epochs)
    evaluated = math.fsum(e.multiply_adds for e in known if math.isfinite(e.multiply_adds))
    return {
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + epochs - repeated,
        "multiply_adds": before.cost + evaluated + training.cost(epochs) - training.cost(repeated),
        "seconds": before.seconds + sum(e.seconds for e in known) + training.seconds,
    }
