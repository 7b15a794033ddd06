"""Density by epoch and layer, and movement with the cut, of a training in which weights dissipated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.errors import InputError
from evoprune.figures.of_run.reading import read_finished
from evoprune.figures.styles import GREY, MOVEMENT_LABELS, ROLE_COLORS
from evoprune.runs import records
from evoprune.training.dissipation import EDGES


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    removals = (records.read_json(folder / "removals.json") or {}).get("winner") or [{}]
    return "kept" in removals[0]  # other schedules log other changes


def dissipation_figure(folder: Path) -> Figure:
    """Draws density by epoch and layer, and movement at the first, middle and last removal."""
    removals = read_removals(folder)
    config, result = read_finished(folder)
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


def read_removals(folder: Path) -> list[dict[str, Any]]:
    """Reads the facts of each removal in the winner's training; see :func:`evoprune.training.dissipation.describe_removal`.

    Raises:
        InputError: The folder holds no finished run in which anything dissipated.
    """
    read_finished(folder, "removals.json")
    removals = (records.read_json(folder / "removals.json") or {}).get("winner")
    if not removals or "kept" not in removals[0]:
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
    """Draws the histogram of movement at one removal: the weights kept, the weights removed, and the cut between them."""
    for part, color, bottom in (
        ("removed", GREY, np.zeros(len(EDGES) - 1)),
        ("kept", ROLE_COLORS["winner"], removal["removed"]),
    ):
        ax.bar(EDGES[:-1], removal[part], np.diff(EDGES), bottom, align="edge", color=color, label=part)
    if removal["threshold"]:
        ax.axvline(math.log10(removal["threshold"]), color="k", linestyle="--", label="cut")
    filled = np.flatnonzero(np.array(removal["kept"]) + np.array(removal["removed"]))
    ax.set_xlim(EDGES[filled[0]] - 0.2, EDGES[filled[-1] + 1] + 0.2)
    ax.set_title(f"after epoch {removal['epoch']}: {removal['survivors']:,} left", fontsize="medium")
    ax.set_xlabel(MOVEMENT_LABELS[movement])
    ax.set_ylabel("weights")
