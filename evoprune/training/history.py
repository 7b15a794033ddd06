"""The history of a training: a row for each epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evoprune.engines.population import Population
from evoprune.problem.metrics import column
from evoprune.training.measure import Measured

HISTORY_COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "survivors", "multiply_adds")
Row = dict[str, float | None]


def history_rows(epoch: int, population: Population, train_loss: NDArray[np.float64], validation: Measured) -> list[Row]:
    """Returns the row of an epoch for each individual, its cost left open; a metric's column is ``validation_NAME``.

    Args:
        epoch: Number of epochs trained.
        population: The population.
        train_loss: Mean training loss of the epoch [K].
        validation: Loss, accuracy and metrics on the validation set.
    """
    rows = []
    for k, mask in enumerate(population.masks):
        measured = (finite(values[k]) for values in (train_loss, validation.loss, validation.accuracy))
        row: Row = dict(zip(HISTORY_COLUMNS, (float(epoch), *measured, float(mask.survivors), None), strict=True))
        rows.append(row | {column(name): finite(values[k]) for name, values in validation.metrics.items()})
    return rows


def metric_columns(row: Row) -> tuple[str, ...]:
    """Returns the names of the columns of metrics in a row of a history."""
    return tuple(name for name in row if name not in HISTORY_COLUMNS)


def enter_costs(history: Sequence[Row], costs: Sequence[float]) -> None:
    """Enters the sums of the costs of the last epochs in a history; those of earlier epochs are in it."""
    earlier = history[len(history) - len(costs) - 1]["multiply_adds"] if len(history) > len(costs) else 0.0
    for row, cost in zip(history[len(history) - len(costs) :], np.cumsum([earlier or 0.0, *costs])[1:].tolist(), strict=True):
        row["multiply_adds"] = cost


def finite(value: float) -> float | None:
    """Returns a number, or None if it is not finite."""
    return float(value) if np.isfinite(value) else None
