"""Overlap of the masks of each pair of methods."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from evoprune.comparison.frames import OVERLAPS, read_table
from evoprune.comparison.statistics import ordered
from evoprune.figures.of_comparison.panels import Group, finish, grid, seeds, select, size


def overlap_figure(folder: Path, group: Group | None = None) -> Figure:
    """Draws the overlap between methods, a panel for each sparsity."""
    overlaps = select(read_table(folder / "overlaps.csv", OVERLAPS, ("data", "model", "a", "b")), group)
    sparsities = sorted(overlaps["sparsity"].unique())
    figure = Figure(figsize=size(len(sparsities), 7.2, 6), layout="constrained")
    for ax, sparsity in zip(grid(figure, len(sparsities)), sparsities, strict=False):
        plot_overlap(ax, overlaps[overlaps["sparsity"] == sparsity])
        ax.set_title(f"{100 * sparsity:.6g} % sparsity")
    caption = "in a cell: IoU measured, and below it the IoU expected of random masks with the same survivors in each layer; "
    caption += f"means; {seeds(overlaps)}"
    spread = overlaps.groupby(["sparsity", "a", "b"])["iou"].std().max()
    caption += "" if math.isnan(spread) else f"; largest standard deviation of a pair over seeds {spread:.2g}"
    finish(figure, overlaps, caption)
    return figure


def plot_overlap(ax: Axes, overlaps: pd.DataFrame) -> None:
    """Draws the overlap of each pair of methods as a heat map: measured above expected, the colour their ratio.

    Args:
        ax: The axes to draw on.
        overlaps: Rows of ``overlaps.csv`` of one (data, model) group at one sparsity.
    """
    names = ordered([*overlaps["a"], *overlaps["b"]])
    measured, expected = np.full((2, len(names), len(names)), math.nan)
    pairs = [sorted(pair, key=names.index, reverse=True) for pair in zip(overlaps["a"], overlaps["b"], strict=True)]
    overlaps = overlaps.assign(row=[pair[0] for pair in pairs], column=[pair[1] for pair in pairs])
    for (row, column), part in overlaps.groupby(["row", "column"]):
        at = names.index(str(row)), names.index(str(column))
        measured[at], expected[at] = part["iou"].mean(), part["expected"].mean()
    ratio = np.divide(measured, expected, out=np.full_like(measured, math.nan), where=expected > 0)
    logs = np.log2(np.clip(ratio, 2.0**-5, 2.0**5))
    # The bounds are fixed, so that a colour means the same in each panel.
    image = ax.imshow(logs, cmap="PuOr_r", norm=TwoSlopeNorm(0, -5, 5))
    for (i, j), value in np.ndenumerate(measured):
        if not math.isnan(value):
            color = "white" if abs(logs[i, j]) > 3.2 else "black"
            text = f"{_short(float(value))}\n{_short(float(expected[i, j]))}"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=color, linespacing=1.1)
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(1, len(names)), names[1:])
    ax.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 0.5, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.set_ticks([-4, -2, 0, 2, 4], labels=["1/16", "1/4", "1", "4", "16"])
    bar.set_label("measured / expected by chance")


def _short(value: float) -> str:
    return f"{value:#.2g}".removeprefix("0")
