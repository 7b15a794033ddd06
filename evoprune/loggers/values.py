"""The numbers of events, by name, as tools for logging want them: flat, and finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deap import tools

from evoprune.evaluation.evaluation import Evaluation
from evoprune.loggers.protocol import Generation
from evoprune.runs.result import Result

_LAYERS = "layers"
_BEST = 3  # a layer has the min, mean, max and best of its survivors
FITNESS = ("best", "min", "mean", "max", "std")
RECORD = ("nevals", "diversity", "chance_diversity", "seconds")


def generation_of(logbook: tools.Logbook, i: int, weights: int) -> Generation:
    """Returns the event of a generation.

    Args:
        logbook: The logbook.
        i: The number of its record.
        weights: Number of prunable weights.
    """
    survivors = round(sum(v[_BEST] for v in logbook.chapters[_LAYERS][i].values() if isinstance(v, list)))
    evaluations = sum(int(count) for count in logbook.select("nevals")[: i + 1])
    sparsity = 1 - survivors / weights
    return Generation(int(logbook[i]["gen"]), evaluations, survivors, sparsity, scalars(logbook, i), logbook)


def scalars(logbook: tools.Logbook, i: int) -> dict[str, float]:
    """Returns the finite numbers of a logbook's record: ``fitness/min``, ``loss/mean``, ``diversity`` and so on."""
    record = logbook[i]
    values = {f"fitness/{name}": record[name] for name in FITNESS} | {name: record[name] for name in RECORD}
    for chapter, rows in logbook.chapters.items():
        # of a layer: the mean
        values |= {f"{chapter}/{k}": v[1] if isinstance(v, list) else v for k, v in rows[i].items() if k != "gen"}
    return finite(values)


def of_generation(generation: Generation) -> dict[str, float]:
    """Returns all numbers of a generation."""
    names = ("evaluations", "survivors", "sparsity")
    return {**{name: getattr(generation, name) for name in names}, **generation.values}


def of_evaluation(evaluation: Evaluation) -> dict[str, float]:
    """Returns the finite numbers of an evaluation: its terms, loss, accuracy, and time."""
    names = ("validation_loss", "validation_accuracy", "multiply_adds", "seconds")
    return finite({**evaluation.terms, **{name: getattr(evaluation, name) for name in names}})


def of_result(result: Result) -> dict[str, float]:
    """Returns the finite numbers of a result, such as ``test_accuracy``, ``sparsity`` and ``multiply_adds``."""
    return finite(result.summary)


def curves(result: Result) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yields the role, the epoch and the numbers of each epoch of the final trainings."""
    for role, training in result.trainings.items():
        for row in training.history:
            yield role, int(row["epoch"] or 0), finite({name: value for name, value in row.items() if name != "epoch"})


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers among values."""
    numbers = {name: value for name, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
