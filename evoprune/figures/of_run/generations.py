"""Axes that the figures of an evolution share."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator


def band(ax: Axes, gens: Any, mean: Any, low: Any, high: Any, alpha: float, **style: Any) -> None:
    """Draws the range from low to high around the mean, as a band over the generations."""
    if len(gens) > 1:
        ax.fill_between(gens, low, high, alpha=alpha, linewidth=0, **style)
    else:  # one generation gives a band no width
        ax.errorbar(gens, mean, np.maximum([mean - low, high - mean], 0), fmt="none", capsize=4, **style)


def axis_of_generations(ax: Axes, gens: Any) -> None:
    """Labels the axis of generations, whole numbers from the first to the last."""
    ax.set_xlabel("generation")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlim(min(gens) - 0.5, max(gens) + 0.5)
    ax.grid(axis="y", alpha=0.3)


def sequential() -> ListedColormap:
    """Returns the colours from the first generation to the last."""
    return ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))  # the last tenth is too light on white
