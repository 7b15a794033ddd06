"""Histograms of movement, with the cut of each removal."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.comparison.frames import MOVEMENT, read_table
from evoprune.comparison.statistics import ordered
from evoprune.figures.of_comparison.panels import Group, finish, grid, of_main_table, select, size
from evoprune.figures.styles import MOVEMENT_LABELS


def movement_figure(folder: Path, group: Group | None = None) -> Figure:
    """Draws the movement, a panel for each epoch, of the first method and seed at the highest sparsity."""
    movement = of_main_table(
        select(read_table(folder / "movement.csv", MOVEMENT, ("method", "data", "model", "movement")), group)
    )
    movement = movement[movement["method"] == ordered(movement["method"])[0]]
    movement = movement[movement["sparsity"] == movement["sparsity"].max()]
    movement = movement[movement["seed"] == movement["seed"].min()]
    epochs = sorted(movement["epoch"].unique())
    figure = Figure(figsize=size(len(epochs), 4, 2.8), layout="constrained")
    axes = grid(figure, len(epochs))
    for ax, epoch in zip(axes, epochs, strict=False):
        plot_movement(ax, movement[movement["epoch"] == epoch])
    axes[0].legend(fontsize="small")
    one = movement.iloc[0]
    finish(figure, movement, f"{one['method']}, {100 * one['sparsity']:.6g} % sparsity, seed {one['seed']:.0f}, one run")
    return figure


def plot_movement(ax: Axes, movement: pd.DataFrame) -> None:
    """Draws the histogram of the movement at the end of one epoch: survivors kept and removed, stacked, and the cut.

    Args:
        ax: The axes to draw on.
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
