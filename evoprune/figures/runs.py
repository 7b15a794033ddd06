"""Figures of a run, as functions that take data and an ``Axes``; and their data, read from a run folder."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from evoprune.errors import InputError
from evoprune.figures import drawing
from evoprune.figures.evolutions import EVOLUTION_FIGURES, evolution_figures_of
from evoprune.figures.styles import BLUE, GREEN, GREY, SKY, VERMILLION
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations
from evoprune.system.files import require_own
from evoprune.training.dissipation import EDGES

# The roles that are drawn; a run may have others.
COLORS = {"winner": VERMILLION, "random": SKY, "validation": GREEN, "start": BLUE}
LABELS = {
    "winner": "winner (fittest)",
    "random": "random start",
    "validation": "least validation loss",
    "start": "fittest start",
}
MOVEMENT_LABELS = {
    "absolute": "absolute movement, log10 of |w - w0| / mean |w0|",
    "relative": "relative movement, log10 of |w - w0| / |w0|",
    "random": "log10 of a random number",
}


@dataclass(frozen=True)
class Starts:
    """The k starts of a run.

    Attributes:
        fitness: Fitness of each that did not fail.
        quality: Validation accuracy of each (minus the validation loss where there is none).
        is_accuracy: Which of the two.
        roles: Index into them by role (winner and controls).
        rho: Spearman's rank correlation of the two; None where it is not defined.
        name: Name of the fitness.
        failed: Number of starts that failed, which no figure can show.
    """

    fitness: list[float]
    quality: list[float]
    is_accuracy: bool
    roles: dict[str, int]
    rho: float | None
    name: str
    failed: int


def read_starts(folder: Path) -> Starts:
    """Reads the starts of a finished run.

    Raises:
        InputError: The folder holds no finished run.
    """
    config, result = _config_and_result(folder)
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


def read_histories(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Reads ``history.csv``: the rows after each epoch, by role.

    Raises:
        InputError: There is no such file.
    """
    histories: dict[str, list[dict[str, Any]]] = {}
    _config_and_result(folder)
    for row in records.read_table(folder / "history.csv"):
        histories.setdefault(row["role"], []).append(row)
    return histories


def read_layers(folder: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Reads survivors and size of each layer, by role.

    Raises:
        InputError: The folder holds no finished run.
    """
    _, result = _config_and_result(folder)
    chosen = {"winner": result, **result["controls"]}
    return {role: {name: (kept, size) for name, (kept, size) in f["layers"].items()} for role, f in chosen.items()}


def plot_starts(ax: Axes, starts: Starts) -> None:
    """Draws the fitness of the k starts against their validation accuracy after the brief training."""
    ax.scatter(starts.fitness, starts.quality, s=28, color=GREY, label=f"{len(starts.fitness)} starts")
    for size, (role, i) in zip((15, 11, 7), starts.roles.items(), strict=False):  # rings, so that one start can be several
        ring = MarkerStyle("o", fillstyle="none")
        (line,) = ax.plot(starts.fitness[i], starts.quality[i], marker=ring, markersize=size, markeredgewidth=2, linestyle="")
        line.set(color=COLORS[role], label=LABELS[role])
    rho = "not defined" if starts.rho is None else f"{starts.rho:+.2f}"
    failed = f", {starts.failed} failed" if starts.failed else ""
    ax.set_title(f"Spearman's ρ = {rho} (k = {len(starts.fitness)}{failed})")
    ax.set_xlabel(f"fitness ({starts.name})")
    ax.set_ylabel(f"{'validation accuracy' if starts.is_accuracy else '− validation loss'} after the brief training")
    ax.legend(fontsize="small", markerscale=0.6, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)


def plot_training(ax: Axes, histories: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> None:
    """Draws one column of the training histories against the epoch, a line a role; roles without a label are left out."""
    shown = {role: rows for role, rows in histories.items() if role in LABELS}
    for (role, rows), style in zip(shown.items(), ("-", "--", ":", "-."), strict=False):
        epochs = [row["epoch"] for row in rows]
        values = [row[column] for row in rows]
        ax.plot(epochs, values, style, color=COLORS[role], marker=".", label=LABELS[role], linewidth=2)
    ax.set_xlabel("epoch")
    ax.set_ylabel(column.replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small")


def plot_layers(ax: Axes, layers: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
    """Draws the survivors of each layer, a point a role, with the layer's density in percent; as in :func:`plot_training`."""
    shown = {role: counts for role, counts in layers.items() if role in LABELS}
    for i, (role, counts) in enumerate(shown.items()):
        positions = [j + 0.25 * (i - (len(shown) - 1) / 2) for j in range(len(counts))]
        ax.plot(positions, [kept for kept, _ in counts.values()], "o", color=COLORS[role], label=LABELS[role])
        for position, (kept, size) in zip(positions, counts.values(), strict=True):
            text = f"{100 * kept / size:.3g} %"
            ax.annotate(text, (position, kept), (0, 7), textcoords="offset points", rotation=90, ha="center", fontsize="small")
    sizes = {name: size for name, (_, size) in next(iter(layers.values())).items()}
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, 10 * max(sizes.values()))
    ax.set_xlim(-0.5, len(sizes) - 0.5)
    ax.grid(axis="y", alpha=0.3)
    ax.set_xticks(range(len(sizes)), [f"{name}\nof {size:,}" for name, size in sizes.items()])
    ax.set_ylabel("survivors")
    ax.legend(fontsize="small", ncols=3)


def starts_figure(folder: Path) -> Figure:
    """Returns the figure of fitness against validation accuracy."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    plot_starts(figure.subplots(), read_starts(folder))
    return figure


def training_figure(folder: Path) -> Figure:
    """Returns the figure of loss and (where defined) accuracy by epoch."""
    histories = read_histories(folder)
    columns = ["train_loss", "validation_loss", "validation_accuracy"]
    if math.isnan(next(iter(histories.values()))[-1]["validation_accuracy"]):
        columns.pop()
    figure = Figure(figsize=(4.5 * len(columns), 4), layout="constrained")
    for ax, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
        plot_training(ax, histories, column)
    return figure


def layers_figure(folder: Path) -> Figure:
    """Returns the figure of survivors by layer."""
    layers = read_layers(folder)
    figure = Figure(figsize=(max(6.0, 2.0 * len(layers["winner"])), 4.5), layout="constrained")
    plot_layers(figure.subplots(), layers)
    return figure


def read_removals(folder: Path) -> list[dict[str, Any]]:
    """Reads what each removal of the winner's training did; see :func:`evoprune.training.dissipation.describe_removal`.

    Raises:
        InputError: The folder holds no finished run in which anything dissipated.
    """
    _config_and_result(folder)
    removals = (records.read_json(folder / "removals.json") or {}).get("winner")
    if not removals:
        raise InputError(f"{folder} holds no removals; expected a run of dissipate.py or combine.py.")
    return list(removals)


def plot_survivors(ax: Axes, removals: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> None:
    """Draws the density of each layer, and of all, after each removal, on a logarithmic axis."""
    epochs = [removal["epoch"] for removal in removals]
    total = sum(sizes.values())
    ax.plot(epochs, [removal["survivors"] / total for removal in removals], "k-", marker="o", linewidth=2, label="all")
    for (name, size), marker in zip(sizes.items(), "svD^<>pP*X" * len(sizes), strict=False):
        ax.plot(epochs, [removal["layers"][name] / size for removal in removals], marker=marker, alpha=0.8, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("epoch at whose end is removed")
    ax.set_ylabel("density left")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize="small")


def plot_movement(ax: Axes, removal: Mapping[str, Any], movement: str) -> None:
    """Draws the histogram of movement at one removal: what was kept, what was removed, and the cut between them."""
    for what, color, bottom in (("removed", GREY, np.zeros(len(EDGES) - 1)), ("kept", COLORS["winner"], removal["removed"])):
        ax.bar(EDGES[:-1], removal[what], np.diff(EDGES), bottom, align="edge", color=color, label=what)
    if removal["threshold"]:
        ax.axvline(math.log10(removal["threshold"]), color="k", linestyle="--", label="cut")
    filled = np.flatnonzero(np.array(removal["kept"]) + np.array(removal["removed"]))
    ax.set_xlim(EDGES[filled[0]] - 0.2, EDGES[filled[-1] + 1] + 0.2)
    ax.set_title(f"after epoch {removal['epoch']}: {removal['survivors']:,} left", fontsize="medium")
    ax.set_xlabel(MOVEMENT_LABELS[movement])
    ax.set_ylabel("weights")


def dissipation_figure(folder: Path) -> Figure:
    """Returns the figure of density by epoch and layer, and of movement at the first, middle and last removal."""
    removals = read_removals(folder)
    config, result = _config_and_result(folder)
    settings = config["settings"]
    movement = settings.get("dissipation", settings)["movement"]
    figure = Figure(figsize=(14, 4), layout="constrained")
    shown = sorted({0, (len(removals) - 1) // 2, len(removals) - 1})
    axes = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    plot_survivors(axes[0], removals, {name: size for name, (_, size) in result["layers"].items()})
    for ax, i in zip(axes[1:], shown, strict=True):
        plot_movement(ax, removals[i], movement)
    axes[1].legend(fontsize="small")
    return figure


FIGURES = {
    "starts": starts_figure,
    "training": training_figure,
    "layers": layers_figure,
    "dissipation": dissipation_figure,
    **EVOLUTION_FIGURES,
}


def figures_of(folder: Path) -> list[str]:
    """Returns the names of the figures that a run has data for."""
    needs = {"training": "result.json", "layers": "result.json", "dissipation": "removals.json"}
    if (records.read_json(folder / "config.json") or {}).get("method") != "evolve":  # its generation 0 has no controls
        needs = {"starts": "evaluations.csv", **needs}
    return [*(name for name, file in needs.items() if (folder / file).exists()), *evolution_figures_of(folder)]


def save_figures(folder: Path) -> list[Path]:
    """Writes the figures of a run into its folder, as PNG, and returns the paths of those that could be drawn.

    Raises:
        InputError: A symbolic link leads out of the folder.
    """
    require_own(folder)
    names = figures_of(folder)
    return drawing.save((folder / f"{name}.png", functools.partial(FIGURES[name], folder)) for name in names)


def _config_and_result(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    require_own(folder)
    config, result = records.read_json(folder / "config.json"), records.read_json(folder / "result.json")
    if config is None or result is None:
        raise InputError(f"{folder} holds no finished run; expected a folder with config.json and result.json.")
    return config, result
