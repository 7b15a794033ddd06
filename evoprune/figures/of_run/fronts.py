"""Pareto fronts of the first two objectives over the generations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.terms import FITNESS
from evoprune.figures.of_run.generations import sequential
from evoprune.figures.of_run.reading import is_evolution_with, label_of, objectives_of, read_config
from evoprune.figures.styles import GREY, pareto_front
from evoprune.runs.evaluations import read_evaluations

_FRONTS = 6


@dataclass(frozen=True)
class Evaluated:
    """The evaluations of a run with several objectives.

    Attributes:
        names: Names of the first two objectives.
        objectives: Number of all objectives.
        points: Generation and first two objectives of each evaluation that has both.
        left_out: Number of the others: failed, or an objective is not finite.
    """

    names: tuple[str, str]
    objectives: int
    points: list[tuple[int, float, float]]
    left_out: int


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_evolution_with(folder, read_evaluated)


def fronts_figure(folder: Path) -> Figure:
    """Draws the Pareto fronts over the generations."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    plot_fronts(figure.subplots(), read_evaluated(folder))
    return figure


def read_evaluated(folder: Path) -> Evaluated:
    """Reads the first two objectives of each evaluation.

    Raises:
        InputError: The run has one objective only, or one that is not registered here, or no evaluation to draw.
    """
    config = read_config(folder)
    names = objectives_of(config)
    if len(names) < 2:
        raise InputError(
            f"{folder} holds a run with the one objective {names[0]!r}; expected two or more, of which there is a front; "
            f"give evolve several, or draw the fitness."
        )
    rows = read_evaluations(folder)
    usable = [(gen, e) for gen, e in rows if not e.has_failed]
    values = [(gen, _objective(names[0], e, config), _objective(names[1], e, config)) for gen, e in usable]
    points = [(gen, x, y) for gen, x, y in values if math.isfinite(x + y)]
    if not points:
        raise InputError(f"{folder / 'evaluations.csv'} has no finite {' and '.join(names[:2])}; expected a mask that trained.")
    return Evaluated((names[0], names[1]), len(names), points, len(rows) - len(points))


def plot_fronts(ax: Axes, evaluated: Evaluated) -> None:
    """Draws all evaluations, and the Pareto front of those up to some generations, from the first to the last."""
    gens = sorted({gen for gen, _, _ in evaluated.points})
    shown = [gens[i] for i in np.unique(np.linspace(0, len(gens) - 1, _FRONTS).round().astype(int))]
    x, y = zip(*(point[1:] for point in evaluated.points), strict=True)
    ax.scatter(x, y, s=12, color=GREY, alpha=0.5, linewidth=0, label="all evaluations")
    colors = sequential()(np.linspace(0, 1, len(shown)))
    for i, (gen, color) in enumerate(zip(shown, colors, strict=True)):
        front = pareto_front([point[1:] for point in evaluated.points if point[0] <= gen])
        size = 10 - 5 * i / max(1, len(shown) - 1)  # so that a point of several fronts shows the colour of each
        label = f"front up to generation {gen}"
        ax.plot(*zip(*front, strict=True), drawstyle="steps-pre", color=color, marker="os^DvP"[i], markersize=size, label=label)
    left_out = f", {evaluated.left_out} more failed or not finite" if evaluated.left_out else ""
    more = f", first two of {evaluated.objectives} objectives" if evaluated.objectives > 2 else ""
    ax.set_title(f"{len(evaluated.points)} evaluations{left_out}{more}")
    ax.set_xlabel(label_of(evaluated.names[0]))
    ax.set_ylabel(label_of(evaluated.names[1]))
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _objective(name: str, evaluation: Evaluation, config: Mapping[str, Any]) -> float:
    if name not in FITNESS:
        raise InputError(
            f"fitness {name!r} is not known here; expected one of {', '.join(FITNESS)}; register it as in the run."
        )
    return FITNESS[name].value(evaluation.values, config["divisors"])
