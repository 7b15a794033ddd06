"""Validation accuracy after the full training against fitness, of the best masks of the generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.errors import InputError
from evoprune.figures.of_run.generations import sequential
from evoprune.figures.of_run.reading import is_evolution_with, label_of, objectives_of, read_config, read_rows
from evoprune.runs.ranks import spearman

_ROOM = (0.1, 0.06)  # of a label, as fractions of the points' range


@dataclass(frozen=True)
class Finals:
    """The masks that were the best of some generation, after the full training.

    Attributes:
        gens: The recorded generations that each was the best of, from the first to the last.
        fitness: Fitness of each, from the brief training.
        quality: Validation accuracy of each after the full training (minus the validation loss, if there is no accuracy).
        is_accuracy: Whether the quality is an accuracy.
        name: Name of the fitness.
        diverged: Number of masks whose full training diverged; they are not drawn.
    """

    gens: list[tuple[int, int]]
    fitness: list[float]
    quality: list[float]
    is_accuracy: bool
    name: str
    diverged: int


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_evolution_with(folder, read_finals)


def finals_figure(folder: Path) -> Figure:
    """Draws validation accuracy after the full training against fitness, of the best masks."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    plot_finals(figure.subplots(), read_finals(folder))
    return figure


def read_finals(folder: Path) -> Finals:
    """Reads ``bests.csv``; generations that have the same best mask are one.

    Raises:
        InputError: There is no such file, or nothing in it to draw.
    """
    config, path = read_config(folder), folder / "bests.csv"
    columns = ("gen", "mask", "fitness", "validation_accuracy", "validation_loss")
    rows = read_rows(folder, path.name, columns, text=("mask",))
    is_accuracy = bool(rows["validation_accuracy"].notna().any())
    rows["quality"] = rows["validation_accuracy"] if is_accuracy else -rows["validation_loss"]
    same_mask = rows.sort_values("gen").groupby(["mask", "fitness"], sort=False, dropna=False)
    masks = same_mask.agg(first=("gen", "first"), last=("gen", "last"), quality=("quality", "first")).reset_index()
    usable = masks.dropna(subset=["fitness", "quality"])
    if usable.empty:
        raise InputError(
            f"{path} has no mask whose full training ended with a finite loss; expected one; lower the learning rate."
        )
    return Finals(
        gens=[(int(first), int(last)) for first, last in zip(usable["first"], usable["last"], strict=True)],
        fitness=usable["fitness"].tolist(),
        quality=usable["quality"].tolist(),
        is_accuracy=is_accuracy,
        name=objectives_of(config)[0],
        diverged=len(masks) - len(usable),
    )


def plot_finals(ax: Axes, finals: Finals) -> None:
    """Draws quality after the full training against fitness, a point a mask, coloured by the generation that first had it."""
    first = [gens[0] for gens in finals.gens]
    points = ax.scatter(finals.fitness, finals.quality, c=first, cmap=sequential(), zorder=2)
    for i in _with_room(finals.fitness, finals.quality):
        text = "–".join(str(gen) for gen in dict.fromkeys(finals.gens[i]))
        at = (finals.fitness[i], finals.quality[i])
        last = i == len(first) - 1  # the fittest, with nothing to its right
        align: dict[str, Any] = {"ha": "left", "va": "center"} if last else {"ha": "center"}
        ax.annotate(text, at, (6, 0) if last else (0, 6), textcoords="offset points", fontsize="small", **align)
    if len(set(first)) > 1:
        ax.figure.colorbar(points, ax=ax, ticks=MaxNLocator(integer=True), label="first generation that it was the best of")
    rho = _rank_correlation(finals.fitness, finals.quality)
    diverged = f", {finals.diverged} diverged" if finals.diverged else ""
    rho_text = "not defined" if rho is None else f"{rho:+.2f}"
    ax.set_title(f"Spearman's ρ = {rho_text} ({len(first)} best mask{'' if len(first) == 1 else 's'}{diverged})")
    ax.set_xlabel(label_of(finals.name))
    ax.set_ylabel(f"{'validation accuracy' if finals.is_accuracy else '− validation loss'} after the full training")
    ax.margins(0.12)
    ax.grid(alpha=0.3)


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return spearman(x, y)


def _with_room(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Returns indices of points whose labels do not overlap: the last, the first, and of the others as many as fit."""
    points = np.column_stack([x, y])
    places = (points - points.min(0)) / np.where(np.ptp(points, 0) > 0, np.ptp(points, 0), 1)
    chosen: list[int] = []
    for i in dict.fromkeys([len(x) - 1, 0, *range(len(x))]):
        if all((abs(places[i] - places[j]) > _ROOM).any() for j in chosen):
            chosen.append(i)
    return chosen
