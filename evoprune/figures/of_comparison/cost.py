"""Test accuracy against cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.comparison.frames import read_cells
from evoprune.comparison.methods import split_control
from evoprune.comparison.statistics import BAND, dense_epoch, metric, ordered, summarise
from evoprune.figures.of_comparison.panels import Group, finish, grid, scale_quality, seeds, select, size
from evoprune.figures.styles import GREY, Look, pareto_front, scale_cost, styles


def cost_figure(folder: Path, group: Group | None = None) -> Figure:
    """Draws accuracy against cost, a panel for each sparsity.

    Controls are left out if there are other methods: their cost lacks that of finding the mask.
    """
    cells = select(read_cells(folder / "cells.csv"), group)
    is_control = cells["method"].map(lambda method: split_control(method)[1] is not None)
    cells = cells if is_control.all() else cells[~is_control]
    is_dense = cells["method"] == "dense"
    sparsities = sorted(cells.loc[~is_dense, "sparsity"].unique())
    figure, look = Figure(figsize=size(len(sparsities), 5.8, 4.4), layout="constrained"), styles(cells["method"])
    for ax, sparsity in zip(grid(figure, len(sparsities)), sparsities, strict=False):
        plot_cost(ax, cells[is_dense | (cells["sparsity"] == sparsity)], dense_epoch(cells), look)
        ax.set_title(f"{100 * sparsity:.6g} % sparsity")
    caption = f"point: mean; bar: {BAND}; line: Pareto front of the means; {seeds(cells)}"
    if cells["budget"].notna().any():
        caption += "; filled: main table, hollow: equal cost"
    finish(figure, cells, caption + "; each panel has its own scale", cells["method"])
    return figure


def plot_cost(ax: Axes, cells: pd.DataFrame, epoch: float | None, look: Look | None = None) -> None:
    """Draws test accuracy (or loss) against multiply-adds: the mean and its 95 % t-interval, for each method and budget.

    Filled markers stand for the main table, hollow ones for equal cost; a line joins the markers of a method. A grey line
    joins the means that no other beats in both.

    Args:
        ax: The axes to draw on.
        cells: The cells of one (data, model) group at one sparsity, and the dense ones.
        epoch: Multiply-adds of one epoch of dense training; None to draw them as they are.
        look: Styles of the methods; None for those of ``styles``.
    """
    summary = summarise(cells).dropna(subset=["mean", "multiply_adds"])
    scale = 100.0 if metric(cells) == "test_accuracy" else 1.0
    look = look or styles(cells["method"])
    for method in ordered(summary["method"]):
        own = summary[summary["method"] == method].sort_values("multiply_adds")
        style = look[method]
        x, y = own["multiply_adds"].to_numpy() / (epoch or 1e9), scale * own["mean"].to_numpy()
        if method == "dense":
            ax.axhline(y.max(), color=style["color"], linewidth=0.8)
        ax.plot(x, y, label=method, linewidth=1, **{**style, "marker": ""})
        for i, main in enumerate(own["budget"].isna()):
            half, face = scale * own["half"].fillna(0).iloc[i], style["color"] if main else "white"
            bar = {"color": style["color"], "marker": style["marker"], "markerfacecolor": face, "markersize": 7}
            ax.errorbar(x[i], y[i], half, capsize=2, **bar)
    sign = 1 if metric(cells) == "test_accuracy" else -1
    points = zip(-summary["multiply_adds"] / (epoch or 1e9), sign * scale * summary["mean"], strict=True)
    front = [(-cost, sign * value) for cost, value in pareto_front(list(points))]
    if front:
        ax.plot(*zip(*front, strict=True), color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    costs = summary["multiply_adds"] / (epoch or 1e9)
    if not summary.empty and costs.max() > 4 * costs.min() > 0:  # a narrower range reads better on a linear scale
        scale_cost(ax, costs.min(), costs.max())
    ax.set_xlabel("multiply-adds (1e9)" if epoch is None else "multiply-adds (epochs of dense training)")
    scale_quality(ax, cells, summary)
