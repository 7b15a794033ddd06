"""Fitness of the population, and the best so far, over the generations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.figures.of_run.generations import axis_of_generations, band
from evoprune.figures.of_run.reading import is_evolution_with, label_of, objectives_of, read_config, read_generations
from evoprune.figures.styles import BLUE, VERMILLION


@dataclass(frozen=True)
class Spread:
    """An objective over the generations, each field one number a generation.

    Attributes:
        name: Name of the objective.
        gens: The generations.
        low, mean, high, std: Of the population.
        best: The best so far; None if it is not recorded.
    """

    name: str
    gens: list[int]
    low: list[float]
    mean: list[float]
    high: list[float]
    std: list[float]
    best: list[float] | None


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_evolution_with(folder, read_fitness)


def fitness_figure(folder: Path) -> Figure:
    """Draws fitness over the generations, a panel for each objective."""
    spreads, rows = read_fitness(folder), read_generations(folder)
    figure = Figure(figsize=(max(6.5, 5.0 * len(spreads)), 4.8), layout="constrained")
    axes = figure.subplots(1, len(spreads), squeeze=False)[0]
    for ax, spread in zip(axes, spreads, strict=True):
        plot_fitness(ax, spread)
    first, last = rows["gen"].iloc[[0, -1]]
    gens = "generation 0" if len(rows) == 1 else f"generations {first:g} to {last:g}"
    figure.suptitle(f"{rows['nevals'].sum():,.0f} evaluations, {gens}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def read_fitness(folder: Path) -> list[Spread]:
    """Reads the objectives over the generations; of those after the first, the ones that are recorded for each.

    Raises:
        InputError: See :func:`read_generations`.
    """
    rows, (first, *others) = read_generations(folder), objectives_of(read_config(folder))
    prefixes = {first: "", **{name: f"{name}_" for name in others if f"{name}_mean" in rows}}
    spreads = []
    for name, prefix in prefixes.items():
        low, mean, high, std = (rows[prefix + column].tolist() for column in ("min", "mean", "max", "std"))
        best = None if prefix else rows["best"].tolist()
        spreads.append(Spread(name, rows["gen"].astype(int).tolist(), low, mean, high, std, best))
    return spreads


def plot_fitness(ax: Axes, spread: Spread) -> None:
    """Draws an objective over the generations: mean, standard deviation and range of the population, and the best so far."""
    low, mean, high, std = (np.array(values, dtype=float) for values in (spread.low, spread.mean, spread.high, spread.std))
    inner = np.clip([mean - std, mean + std], low, high)
    band(ax, spread.gens, mean, low, high, color=BLUE, alpha=0.15, label="least to largest")
    if len(spread.gens) > 1:
        ax.fill_between(spread.gens, *inner, color=BLUE, alpha=0.25, linewidth=0, label="mean ± std, within the range")
    ax.plot(spread.gens, mean, color=BLUE, marker="o", markersize=4, label="population mean")
    if spread.best is not None:
        ax.plot(spread.gens, spread.best, "--", color=VERMILLION, marker="s", markersize=4, label="best so far")
    ax.set_ylabel(label_of(spread.name))
    axis_of_generations(ax, spread.gens)
