"""Density of each layer over the generations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evoprune.figures.of_run.generations import axis_of_generations, band
from evoprune.figures.of_run.reading import is_evolution_with, read_rows
from evoprune.figures.styles import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, scale_density

# Their lengths have no divisor in common, so that 30 pairs pass before one repeats.
_COLORS, _MARKERS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY), "osv^D"


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_evolution_with(folder, read_survivors)


def survivors_figure(folder: Path) -> Figure:
    """Draws the density of each layer over the generations."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    plot_densities(figure.subplots(), read_survivors(folder))
    return figure


def read_survivors(folder: Path) -> dict[str, pd.DataFrame]:
    """Reads ``layers.csv``: the rows of each layer, one a generation.

    Raises:
        InputError: There is no such file, or it is not that of an evolution.
    """
    columns = ("gen", "layer", "size", "min", "mean", "max", "best")
    rows = read_rows(folder, "layers.csv", columns, text=("layer",))
    return {str(name): own for name, own in rows.groupby("layer", sort=False)}


def plot_densities(ax: Axes, layers: Mapping[str, pd.DataFrame]) -> None:
    """Draws the density of each layer over the generations: mean and range of the population, and that of the best so far."""
    handles, seen = [], []
    for i, (name, rows) in enumerate(layers.items()):
        gens = rows["gen"]
        low, mean, high, best = (100 * (rows[column] / rows["size"]).to_numpy() for column in ("min", "mean", "max", "best"))
        style: dict[str, Any] = {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 5}
        band(ax, gens, mean, low, high, color=style["color"], alpha=0.15)
        handles += ax.plot(gens, mean, label=f"{name} of {rows['size'].iloc[0]:,.0f}", **style)
        ax.plot(gens, best, "--", markerfacecolor="white", linewidth=1, **style)
        seen += [*low, *mean, *high, *best]
    finite = [density for density in seen if math.isfinite(density)]
    positive = [density for density in finite if density > 0] or [100.0]
    scale_density(ax, min(positive), max(positive), with_zero=min(finite, default=0) == 0)
    handles.append(Line2D([], [], color=GREY, marker="o", markersize=5, label="population mean\n(band: least to largest)"))
    handles.append(Line2D([], [], color=GREY, marker="o", markersize=5, markerfacecolor="white", ls="--", label="best so far"))
    ax.set_ylabel("density of the layer (log scale)")
    ax.legend(handles=handles, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=3)
    axis_of_generations(ax, pd.concat(layers.values())["gen"])
