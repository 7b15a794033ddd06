"""Fitness of the k starts against their validation accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from evoprune.figures.of_run.reading import method_of, read_finished
from evoprune.figures.styles import GREY, ROLE_COLORS, ROLE_LABELS
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations


@dataclass(frozen=True)
class Starts:
    """The k starts of a run.

    Attributes:
        fitness: Fitness of each that did not fail.
        quality: Validation accuracy of each (minus the validation loss, if there is no accuracy).
        is_accuracy: Whether the quality is an accuracy.
        roles: Index into them by role (winner and controls).
        rho: Spearman's rank correlation of fitness and quality; None if it is not defined.
        name: Name of the fitness.
        failed: Number of starts that failed, and are not drawn.
    """

    fitness: list[float]
    quality: list[float]
    is_accuracy: bool
    roles: dict[str, int]
    rho: float | None
    name: str
    failed: int


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    result = records.read_json(folder / "result.json")
    is_ranked = result is None or "spearman_rho" in result
    return is_ranked and method_of(folder) != "evolve" and (folder / "evaluations.csv").exists()


def starts_figure(folder: Path) -> Figure:
    """Draws the fitness of the starts against their validation accuracy."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    plot_starts(figure.subplots(), read_starts(folder))
    return figure


def read_starts(folder: Path) -> Starts:
    """Reads the starts of a finished run.

    Raises:
        InputError: The folder holds no finished run.
    """
    config, result = read_finished(folder, "evaluations.csv")
    rows = [e for gen, e in read_evaluations(folder) if gen == 0]
    usable = [e for e in rows if not e.has_failed]
    divisors = config["divisors"] or dict.fromkeys(config["settings"]["fitness_terms"], 1.0)
    is_accuracy = not all(math.isnan(e.validation_accuracy) for e in usable)
    position = {e.mask: i for i, e in enumerate(usable)}
    chosen = {"winner": result, **result["controls"]}
    return Starts(
        fitness=[sum(e.values[term] / divisor for term, divisor in divisors.items()) for e in usable],
        quality=[e.validation_accuracy if is_accuracy else -e.validation_loss for e in usable],
        is_accuracy=is_accuracy,
        roles={role: position[facts["start"]] for role, facts in chosen.items()},
        rho=result["spearman_rho"],
        name=result["fitness"],
        failed=len(rows) - len(usable),
    )


def plot_starts(ax: Axes, starts: Starts) -> None:
    """Draws the fitness of the k starts against their validation accuracy after the brief training."""
    ax.scatter(starts.fitness, starts.quality, s=28, color=GREY, label=f"{len(starts.fitness)} starts")
    for size, (role, i) in zip((15, 11, 7), starts.roles.items(), strict=False):  # rings, so that one start can be several
        ring = MarkerStyle("o", fillstyle="none")
        (line,) = ax.plot(starts.fitness[i], starts.quality[i], marker=ring, markersize=size, markeredgewidth=2, linestyle="")
        line.set(color=ROLE_COLORS[role], label=ROLE_LABELS[role])
    rho = "not defined" if starts.rho is None else f"{starts.rho:+.2f}"
    failed = f", {starts.failed} failed" if starts.failed else ""
    ax.set_title(f"Spearman's ρ = {rho} (k = {len(starts.fitness)}{failed})")
    ax.set_xlabel(f"fitness ({starts.name})")
    ax.set_ylabel(f"{'validation accuracy' if starts.is_accuracy else '− validation loss'} after the brief training")
    ax.legend(fontsize="small", markerscale=0.6, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)
