"""Test accuracy against sparsity."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evoprune.comparison.frames import read_cells
from evoprune.comparison.statistics import BAND, metric, ordered, summarise
from evoprune.figures.of_comparison.panels import Group, finish, grid, scale_quality, seeds, select, size
from evoprune.figures.styles import Look, styles


def accuracy_figure(folder: Path, group: Group | None = None) -> Figure:
    """Draws accuracy against sparsity, a panel for the main table and for each budget."""
    cells = select(read_cells(folder / "cells.csv"), group)
    budgets = [None] * bool(cells["budget"].isna().any()) + sorted(cells["budget"].dropna().unique())
    figure, look = Figure(figsize=size(len(budgets), 6.2, 6.4), layout="constrained"), styles(cells["method"])
    for ax, budget in zip(grid(figure, len(budgets)), budgets, strict=False):
        plot_accuracy(ax, cells[cells["budget"].isna() if budget is None else cells["budget"] == budget], look)
        ax.set_title("main table" if budget is None else f"equal cost: {budget:g} epochs of dense training")
    finish(figure, cells, f"line: mean; band: {BAND}; {seeds(cells)}", cells["method"])
    return figure


def plot_accuracy(ax: Axes, cells: pd.DataFrame, look: Look | None = None) -> None:
    """Draws test accuracy (or loss) against sparsity: a line of means and the 95 % t-interval, for each method.

    Accuracies stand on a log scale of the error, which shows both the collapse of some methods and tenths of a percent.

    Args:
        ax: The axes to draw on.
        cells: The cells of one (data, model, budget) group.
        look: Styles of the methods; None for those of ``styles``.
    """
    summary = summarise(cells).dropna(subset="mean")
    scale = 100.0 if metric(cells) == "test_accuracy" else 1.0
    look = look or styles(cells["method"])
    for method in ordered(summary["method"]):
        own = summary[summary["method"] == method]
        mean, half = scale * own["mean"].to_numpy(), scale * own["half"].fillna(0).to_numpy()
        if method == "dense":
            ax.axhline(mean[0], label=method, linewidth=1.2, **{**look[method], "marker": ""})
            ax.axhspan(mean[0] - half[0], mean[0] + half[0], color=look[method]["color"], alpha=0.15, linewidth=0)
            continue
        x = 100 * (1 - own["sparsity"].to_numpy())
        ax.plot(x, mean, label=method, linewidth=1.5, markersize=6, **look[method])
        if own["half"].notna().any():
            ax.fill_between(x, mean - half, mean + half, color=look[method]["color"], alpha=0.15, linewidth=0)
    sparsities = sorted(cells.loc[cells["method"] != "dense", "sparsity"].unique())
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.xaxis.set_major_locator(FixedLocator([100 * (1 - s) for s in sparsities]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 - x:.6g} %"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("sparsity (density on a log scale)")
    scale_quality(ax, cells, summary)
