"""Densities of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.comparison.frames import LAYERS, read_table
from evoprune.comparison.statistics import ordered
from evoprune.figures.of_comparison.panels import Group, finish, grid, of_main_table, seeds, select, size
from evoprune.figures.styles import Look, has_long_names, name_layers, scale_density, styles

WIDTH = 6.5  # of a panel, in inches


def layers_figure(folder: Path, group: Group | None = None) -> Figure:
    """Draws the layers' densities, a panel for each sparsity, of the main table if there is one."""
    layers = of_main_table(select(read_table(folder / "layers.csv", LAYERS, ("method", "data", "model", "layer")), group))
    layers = layers[layers["method"] != "dense"]
    sparsities = sorted(layers["sparsity"].unique())
    height = 5.4 if has_long_names(_sizes(layers), WIDTH) else 4.2
    figure, look = Figure(figsize=size(len(sparsities), WIDTH, height), layout="constrained"), styles(layers["method"])
    for ax, sparsity in zip(grid(figure, len(sparsities)), sparsities, strict=False):
        plot_layer_densities(ax, layers[layers["sparsity"] == sparsity], look)
        ax.set_title(f"{100 * sparsity:.6g} % sparsity")
    caption = f"point: mean; bar: least to largest over seeds; dashed: density of the whole mask; {seeds(layers)}"
    finish(figure, layers, caption, layers["method"])
    return figure


def plot_layer_densities(ax: Axes, layers: pd.DataFrame, look: Look | None = None) -> None:
    """Draws the density of each layer: the mean over seeds and a bar from the smallest to the largest, for each method.

    Args:
        ax: The axes to draw on.
        layers: Rows of ``layers.csv`` of one (data, model, budget) group at one sparsity.
        look: Styles of the methods; None for those of ``styles``.
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
    name_layers(ax, _sizes(layers), WIDTH)
    ax.set_ylabel("density of the layer")


def _sizes(layers: pd.DataFrame) -> dict[str, int]:
    """Returns the number of weights of each layer, by name."""
    return {str(name): int(n) for name, n in layers.groupby("layer", sort=False)["size"].first().items()}
