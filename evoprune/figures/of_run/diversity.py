"""Diversity of the population, and the evaluations, over the generations."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.figures.of_run.generations import axis_of_generations
from evoprune.figures.of_run.reading import is_evolution_with, read_generations
from evoprune.figures.styles import BLUE, GREY


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_evolution_with(folder, read_generations)


def diversity_figure(folder: Path) -> Figure:
    """Draws diversity over the generations, and the number of their evaluations below."""
    rows = read_generations(folder)
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    plot_diversity(upper, rows)
    plot_evaluations(lower, rows)
    upper.set_xlabel("")
    return figure


def plot_diversity(ax: Axes, rows: pd.DataFrame) -> None:
    """Draws the population's diversity over the generations, and that of random masks with the same survivors in each layer."""
    ax.plot(rows["gen"], rows["diversity"], color=BLUE, marker="o", markersize=4, label="population")
    label = "by chance: random masks, same layer counts"
    ax.plot(rows["gen"], rows["chance_diversity"], "--", color=GREY, marker="s", markersize=4, label=label)
    if rows["diversity"].isna().all():
        ax.text(0.5, 0.5, "not defined: no two masks in the population", transform=ax.transAxes, ha="center")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("diversity (1 − mean pairwise IoU)")
    ax.legend(fontsize="small")
    axis_of_generations(ax, rows["gen"])


def plot_evaluations(ax: Axes, rows: pd.DataFrame) -> None:
    """Draws the number of new evaluations of each generation."""
    ax.bar(rows["gen"], rows["nevals"], 0.8 if len(rows["gen"]) > 2 else 0.2, color=GREY)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_ylabel("new evaluations")
    axis_of_generations(ax, rows["gen"])
