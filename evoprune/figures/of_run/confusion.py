"""Confusion of the classes on the test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evoprune.errors import InputError
from evoprune.figures.of_run.reading import is_finished, read_finished
from evoprune.runs import records

# With more classes the numbers, or the names, would not be read.
_NUMBERED, _NAMED = 20, 40
_LETTERS = 14


@dataclass(frozen=True)
class Confusion:
    """The test examples of each class (rows) with each prediction (columns) [classes, classes], and the classes' names."""

    counts: NDArray[np.int64]
    names: list[str]


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_finished(folder) and (folder / "confusion.csv").exists()


def confusion_figure(folder: Path) -> Figure:
    """Draws how the classes of the test set are confused by the winner's network."""
    confusion = read_confusion(folder)
    side = min(9.0, 3.2 + 0.42 * len(confusion.names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    plot_confusion(figure.subplots(), confusion)
    return figure


def read_confusion(folder: Path) -> Confusion:
    """Reads ``confusion.csv``.

    Raises:
        InputError: The folder holds no finished run with classes, or a file differs from the one that was written.
    """
    _, result = read_finished(folder, "confusion.csv")
    path = folder / "confusion.csv"
    with records.as_written(path):
        rows = records.read_rows(path)
        counts = np.array([[int(row[str(i)]) for i in range(len(rows))] for row in rows], np.int64)
    names = result.get("classes") or []
    if len(names) != len(counts):
        names = range(len(counts))
    if not len(counts):
        raise InputError(f"{path} has no classes; expected a row for each.")
    return Confusion(counts, [str(name) for name in names])


def plot_confusion(ax: Axes, confusion: Confusion) -> None:
    """Draws the part of each class that gets each prediction, and the number of examples where there is room."""
    counts, n = confusion.counts, len(confusion.names)
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = ax.imshow(100 * parts, vmin=0, vmax=100, cmap="Blues")
    ax.figure.colorbar(shown, ax=ax, label="percent of the class", shrink=0.8)
    if n <= _NUMBERED:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                ax.text(
                    j, i, f"{count}", ha="center", va="center", fontsize=8, color="white" if parts[i, j] > 0.55 else "black"
                )
    if n <= _NAMED:
        names = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in confusion.names]
        long = max(map(len, names)) > 3
        escaped = [name.replace("$", r"\$") for name in names]  # else a name might be read as a formula
        ax.set_xticks(range(n), escaped, rotation=90 if long else 0, fontsize="small")
        ax.set_yticks(range(n), escaped, fontsize="small")
    ax.set_xlabel("predicted class")
    ax.set_ylabel("class")
