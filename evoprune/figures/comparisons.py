"""Figures of a comparison, as functions that take data and an ``Axes``; and their data, read from its folder."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evoprune.comparison.frames import LAYERS, MOVEMENT, OVERLAPS, read_cells, read_frame
from evoprune.comparison.statistics import BAND, dense_epoch, metric, ordered, summarise
from evoprune.errors import InputError
from evoprune.figures import drawing
from evoprune.figures.runs import MOVEMENT_LABELS
from evoprune.figures.styles import Look, scale_accuracy, scale_density, styles
from evoprune.system.files import plain_name, require_own

Group = tuple[str, str]


class DrawFigure(Protocol):
    """Draws a figure of a comparison's folder; the group may be left out where there is one."""

    def __call__(self, folder: Path, group: Group | None = None) -> Figure:
        """Returns the figure."""


def plot_accuracy(ax: Axes, cells: pd.DataFrame, look: Look | None = None) -> None:
    """Draws test accuracy (or loss) against sparsity: a line of means and the 95 % t-interval, for each method.

    Accuracies stand on a log scale of the error, which shows both the collapse of some methods and tenths of a percent.

    Args:
        ax: Where to draw.
        cells: The cells of one (data, model, budget) group.
        look: Styles of the methods; None: those of ``styles``.
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
    _scale_quality(ax, cells, summary)


def plot_cost(ax: Axes, cells: pd.DataFrame, epoch: float | None, look: Look | None = None) -> None:
    """Draws test accuracy (or loss) against multiply-adds: the mean and its 95 % t-interval, for each method and budget.

    Filled markers are of the main table, hollow ones of equal cost; a line joins those of a method.

    Args:
        ax: Where to draw.
        cells: The cells of one (data, model) group at one sparsity, and the dense ones.
        epoch: Multiply-adds of one epoch of dense training; None: they are drawn as they are.
        look: Styles of the methods; None: those of ``styles``.
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
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_major_locator(FixedLocator([m * 10.0**k for k in range(-6, 12) for m in (1, 3)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("multiply-adds (1e9)" if epoch is None else "multiply-adds (epochs of dense training)")
    _scale_quality(ax, cells, summary)


def plot_layer_densities(ax: Axes, layers: pd.DataFrame, look: Look | None = None) -> None:
    """Draws the density of each layer: the mean over seeds and a bar from the smallest to the largest, for each method.

    Args:
        ax: Where to draw.
        layers: Rows of ``layers.csv`` of one (data, model, budget) group at one sparsity.
        look: Styles of the methods; None: those of ``styles``.
    """
    layers = layers.assign(density=100 * layers["survivors"] / layers["size"])
    names = list(dict.fromkeys(layers["layer"]))
    methods = ordered(layers["method"])
    look = look or styles(methods)
    for i, method in enumerate(methods):
        by_layer = layers[layers["method"] == method].groupby("layer")["density"].agg(["mean", "min", "max"]).reindex(names)
        mean, x = by_layer["mean"].to_numpy(), np.arange(len(names)) + 0.84 * ((i + 0.5) / len(methods) - 0.5)
        spread = np.vstack([mean - by_layer["min"].to_numpy(), by_layer["max"].to_numpy() - mean])
        spread = np.maximum(spread, 0)  # the mean of equal numbers may be a rounding error outside them
        ax.errorbar(x, mean, spread, label=method, capsize=2, markersize=6, **{**look[method], "linestyle": ""})
    overall = 100 * (1 - layers["sparsity"].iloc[0])
    ax.axhline(overall, color="#7F7F7F", linewidth=0.8, linestyle="--", zorder=0)
    for edge in range(1, len(names)):
        ax.axvline(edge - 0.5, color="#7F7F7F", linewidth=0.8)
    positive = [*layers.loc[layers["density"] > 0, "density"], overall]
    scale_density(ax, min(positive), max(positive), with_zero=bool((layers["density"] == 0).any()))
    ax.set_xlim(-0.5, len(names) - 0.5)
    sizes = layers.groupby("layer")["size"].first()
    ax.set_xticks(range(len(names)), [f"{name}\nof {sizes[name]:,.0f}" for name in names])
    ax.set_ylabel("density of the layer")


def plot_overlap(ax: Axes, overlaps: pd.DataFrame) -> None:
    """Draws the overlap of each pair of methods as a heat map: measured above expected, the colour their ratio.

    Args:
        ax: Where to draw.
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


def plot_movement(ax: Axes, movement: pd.DataFrame) -> None:
    """Draws the histogram of the movement at the end of one epoch: survivors kept and removed, stacked, and the cut.

    Args:
        ax: Where to draw.
        movement: Rows of ``movement.csv`` of one run and epoch.
    """
    low, width = movement["low"].to_numpy(), (movement["high"] - movement["low"]).to_numpy()
    kept, removed = movement["kept"].to_numpy(), movement["removed"].to_numpy()
    ax.bar(low, kept, width, align="edge", color="#0072B2", label="kept")
    ax.bar(low, removed, width, bottom=kept, align="edge", color="#E69F00", label="removed")
    ax.set_ylim(0, 1.05 * max(1, *(kept + removed)))
    if not math.isnan(movement["cut"].iloc[0]):
        ax.axvline(movement["cut"].iloc[0], color="#000000", linestyle="--", linewidth=1.2, label="cut")
    before = kept.sum() + removed.sum()
    ax.set_title(f"epoch {movement['epoch'].iloc[0]:.0f}: {removed.sum():,.0f} of {before:,.0f} removed", fontsize="medium")
    ax.set_xlabel(MOVEMENT_LABELS[movement["movement"].iloc[0]])
    ax.set_ylabel("weights in the bin")


def accuracy_figure(folder: Path, group: Group | None = None) -> Figure:
    """Returns the figure of accuracy against sparsity: a panel for the main table and for each budget."""
    cells = _select(read_cells(folder / "cells.csv"), group)
    budgets = [None] * bool(cells["budget"].isna().any()) + sorted(cells["budget"].dropna().unique())
    figure, look = Figure(figsize=_size(len(budgets), 6.2, 6.4), layout="constrained"), styles(cells["method"])
    for ax, budget in zip(_grid(figure, len(budgets)), budgets, strict=False):
        plot_accuracy(ax, cells[cells["budget"].isna() if budget is None else cells["budget"] == budget], look)
        ax.set_title("main table" if budget is None else f"equal cost: {budget:g} epochs of dense training")
    _finish(figure, cells, f"line: mean; band: {BAND}; {_seeds(cells)}", cells["method"])
    return figure


def cost_figure(folder: Path, group: Group | None = None) -> Figure:
    """Returns the figure of accuracy against cost: a panel a sparsity."""
    cells = _select(read_cells(folder / "cells.csv"), group)
    is_dense = cells["method"] == "dense"
    sparsities = sorted(cells.loc[~is_dense, "sparsity"].unique())
    figure, look = Figure(figsize=_size(len(sparsities), 5.8, 4.4), layout="constrained"), styles(cells["method"])
    for ax, sparsity in zip(_grid(figure, len(sparsities)), sparsities, strict=False):
        plot_cost(ax, cells[is_dense | (cells["sparsity"] == sparsity)], dense_epoch(cells), look)
        ax.set_title(f"{100 * sparsity:.6g} % sparsity")
    caption = f"point: mean; bar: {BAND}; {_seeds(cells)}"
    if cells["budget"].notna().any():
        caption += "; filled: main table, hollow: equal cost"
    _finish(figure, cells, caption + "; each panel has its own scale", cells["method"])
    return figure


def layers_figure(folder: Path, group: Group | None = None) -> Figure:
    """Returns the figure of the layers' densities: a panel a sparsity, of the main table where there is one."""
    layers = _main(_select(read_frame(folder / "layers.csv", LAYERS, ("method", "data", "model", "layer")), group))
    layers = layers[layers["method"] != "dense"]
    sparsities = sorted(layers["sparsity"].unique())
    figure, look = Figure(figsize=_size(len(sparsities), 6.5, 4.2), layout="constrained"), styles(layers["method"])
    for ax, sparsity in zip(_grid(figure, len(sparsities)), sparsities, strict=False):
        plot_layer_densities(ax, layers[layers["sparsity"] == sparsity], look)
        ax.set_title(f"{100 * sparsity:.6g} % sparsity")
    caption = f"point: mean; bar: least to largest over seeds; dashed: density of the whole mask; {_seeds(layers)}"
    _finish(figure, layers, caption, layers["method"])
    return figure


def overlap_figure(folder: Path, group: Group | None = None) -> Figure:
    """Returns the figure of the overlap between methods: a panel a sparsity."""
    overlaps = _select(read_frame(folder / "overlaps.csv", OVERLAPS, ("data", "model", "a", "b")), group)
    sparsities = sorted(overlaps["sparsity"].unique())
    figure = Figure(figsize=_size(len(sparsities), 7.2, 6), layout="constrained")
    for ax, sparsity in zip(_grid(figure, len(sparsities)), sparsities, strict=False):
        plot_overlap(ax, overlaps[overlaps["sparsity"] == sparsity])
        ax.set_title(f"{100 * sparsity:.6g} % sparsity")
    caption = "in a cell: IoU measured, and below it the IoU expected of random masks with the same survivors in each layer; "
    caption += f"means; {_seeds(overlaps)}"
    spread = overlaps.groupby(["sparsity", "a", "b"])["iou"].std().max()
    caption += "" if math.isnan(spread) else f"; largest standard deviation of a pair over seeds {spread:.2g}"
    _finish(figure, overlaps, caption)
    return figure


def movement_figure(folder: Path, group: Group | None = None) -> Figure:
    """Returns the figure of the movement: a panel an epoch, of the first method and seed at the highest sparsity."""
    movement = _main(_select(read_frame(folder / "movement.csv", MOVEMENT, ("method", "data", "model", "movement")), group))
    movement = movement[movement["method"] == ordered(movement["method"])[0]]
    movement = movement[movement["sparsity"] == movement["sparsity"].max()]
    movement = movement[movement["seed"] == movement["seed"].min()]
    epochs = sorted(movement["epoch"].unique())
    figure = Figure(figsize=_size(len(epochs), 4, 2.8), layout="constrained")
    axes = _grid(figure, len(epochs))
    for ax, epoch in zip(axes, epochs, strict=False):
        plot_movement(ax, movement[movement["epoch"] == epoch])
    axes[0].legend(fontsize="small")
    one = movement.iloc[0]
    _finish(figure, movement, f"{one['method']}, {100 * one['sparsity']:.6g} % sparsity, seed {one['seed']:.0f}, one run")
    return figure


COMPARE_FIGURES: dict[str, DrawFigure] = {
    "accuracy": accuracy_figure,
    "cost": cost_figure,
    "layers": layers_figure,
    "overlap": overlap_figure,
    "movement": movement_figure,
}
_TABLES = {"accuracy": "cells", "cost": "cells", "layers": "layers", "overlap": "overlaps", "movement": "movement"}


def save_compare_figures(folder: Path, strict: bool = False) -> list[Path]:
    """Writes every figure whose table is there into a comparison's folder, as PNG.

    They are called ``NAME-DATA-MODEL.png``, also where there is one group.

    Args:
        folder: Folder of the comparison.
        strict: Raise an error where one cannot be drawn; else a warning names it.

    Returns:
        The paths of those that could be drawn.

    Raises:
        InputError: A table cannot be read or used, a symbolic link leads out of the folder, or, with ``strict``, a figure
            cannot be drawn.
    """
    require_own(folder)
    drawings: list[drawing.Drawing] = []
    for name, draw in COMPARE_FIGURES.items():
        table = folder / f"{_TABLES[name]}.csv"
        if table.exists():
            for group in _groups(read_frame(table, ("data", "model"), ("data", "model"))):
                path = folder / plain_name(f"{'-'.join([name, *group])}.png", str(table))
                drawings.append((path, functools.partial(draw, folder, group)))
    return drawing.save(drawings, strict)


def _groups(frame: pd.DataFrame) -> list[Group]:
    return list(dict.fromkeys(zip(frame["data"], frame["model"], strict=True)))


def _select(frame: pd.DataFrame, group: Group | None) -> pd.DataFrame:
    groups = _groups(frame)
    if group is None and len(groups) == 1:
        group = groups[0]
    if group not in groups:
        raise InputError(f"a figure is of one (data, model) group; got {group}, expected one of {groups}.")
    return frame[(frame["data"] == group[0]) & (frame["model"] == group[1])]


def _main(frame: pd.DataFrame) -> pd.DataFrame:
    without = frame["budget"].isna()
    return frame[without] if without.any() else frame[frame["budget"] == frame["budget"].min()]


def _scale_quality(ax: Axes, cells: pd.DataFrame, summary: pd.DataFrame) -> None:
    ax.grid(alpha=0.3)
    if metric(cells) == "test_loss":
        ax.set_yscale("log")
        ax.set_ylabel("test loss (log scale)")
        return
    ax.set_ylabel("test accuracy in percent (log scale of the error)")
    if summary.empty:
        return
    # by what was observed: the interval of a mean of two is 13 times as wide, and is cut off where the axis ends
    observed = 100 * cells["test_accuracy"].dropna()
    scale_accuracy(ax, observed.min(), observed.max())


def _grid(figure: Figure, n: int) -> list[Axes]:
    columns = _columns(n)
    axes: list[Axes] = list(figure.subplots(max(1, -(-n // columns)), columns, squeeze=False).flat)
    for ax in axes[n:]:
        ax.set_visible(False)
    return axes[:n]


def _columns(n: int) -> int:
    return max(1, min(n, 2 if n <= 4 else 4))


def _size(n: int, width: float, height: float) -> tuple[float, float]:
    return 2.0 + width * _columns(n), 0.6 + height * max(1, -(-n // _columns(n)))


def _seeds(frame: pd.DataFrame) -> str:
    n = frame["seed"].nunique()
    return f"{n} seed{'' if n == 1 else 's, fewer where cells are missing'}"


def _finish(figure: Figure, frame: pd.DataFrame, caption: str, methods: Sequence[str] | pd.Series[str] = ()) -> None:
    figure.suptitle(f"{frame['data'].iloc[0]}, {frame['model'].iloc[0]}")
    if "test_accuracy" in frame and (failed := int(frame[metric(frame)].isna().sum())):
        caption += f"; {failed} failed cell{'' if failed == 1 else 's'} left out"
    figure.supxlabel(caption, fontsize="small")
    handles = [Line2D([], [], label=name, **style) for name, style in styles(methods).items()]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize="small", handlelength=3)


def _short(value: float) -> str:
    return f"{value:#.2g}".removeprefix("0")
