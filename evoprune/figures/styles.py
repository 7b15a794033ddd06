"""How the methods of a comparison look in its figures, and the scales that they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow and the black.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#7F7F7F"

# A colour, a marker and a line of its own for each method, the same in every figure: Okabe and Ito's colours and, as those are
# eight, Tol's muted ones. The marker tells apart what a colour-blind reader, or a print in grey, may not.
STYLES = {
    "dense": ("#000000", "H", "-"),
    "lottery-ticket": ("#0072B2", "o", "-"),
    "dissipate": ("#D55E00", "s", "-"),
    "combine": ("#CC79A7", "D", "-"),
    "kstarts": ("#009E73", "^", "-"),
    "snip": ("#56B4E9", "v", "--"),
    "grasp": ("#E69F00", "<", "--"),
    "synflow": ("#882255", ">", "--"),
    "magnitude": ("#332288", "P", "--"),
    "erk": ("#999933", "X", ":"),
    "random": ("#7F7F7F", "*", ":"),
    "evolve": ("#661100", "p", "-."),
    "evolve-dissipated": ("#CC6677", (4, 1, 0), "-."),
    "random-search": ("#DDCC77", (6, 1, 0), ":"),
}
_MORE_COLORS = ("#44AA99", "#B8A500", "#AA4499", "#117733", "#6699CC")
_MORE_MARKERS = ("h", "d", "8")  # as many as the colours have no divisor of, so that 15 pairs pass before one repeats
_ERROR_TICKS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
_LEAST_ERROR = 0.01  # percent; the scale has no place for an error of zero

Look = dict[str, dict[str, Any]]


def styles(methods: Iterable[str]) -> Look:
    """Returns colour, marker and line of each method; those that ``STYLES`` does not name get one in alphabetical order.

    Panels that are read together need the styles of all their methods, not each of its own.
    """
    from evoprune.comparison.statistics import ordered  # slow to import, and no figure of a single run needs it

    chosen, names = {}, ordered(methods)
    others = [name for name in names if name not in STYLES]
    for name in names:
        i = others.index(name) if name in others else 0
        more = (_MORE_COLORS[i % len(_MORE_COLORS)], _MORE_MARKERS[i % len(_MORE_MARKERS)], "-.")
        chosen[name] = dict(zip(("color", "marker", "linestyle"), STYLES.get(name, more), strict=True))
    return chosen


def scale_accuracy(ax: Axes, low: float, high: float) -> None:
    """Puts accuracies in percent, from low to high, on a log scale of the error."""

    def to_scale(accuracy: Any) -> Any:
        return -np.log10(np.maximum(100 - np.asarray(accuracy, dtype=float), _LEAST_ERROR))

    def to_accuracy(place: Any) -> Any:
        return 100 - 10 ** -np.asarray(place, dtype=float)

    ax.set_yscale("function", functions=(to_scale, to_accuracy))
    bottom, top = to_scale([max(0.0, low), high])
    margin = 0.04 * max(top - bottom, 0.1)
    limits = to_accuracy([bottom - margin, top + margin])
    ax.set_ylim(max(0.0, limits[0]), limits[1])
    ticks = [100 - m * 10.0**k for k in range(2, -3, -1) for m in reversed(_ERROR_TICKS)]
    _set_ticks(ax, [tick for tick in ticks if tick >= 0], "{:.6g}")


def scale_density(ax: Axes, low: float, high: float, with_zero: bool) -> None:
    """Puts densities in percent on a log scale from the least positive one, low, to high; with a place for zero if wanted."""
    threshold = 10.0 ** math.floor(math.log10(low))
    ticks = [m * 10.0**k for k in range(-6, 3) for m in (1, 2, 5)]
    if with_zero:
        ax.set_yscale("symlog", linthresh=threshold)
        ax.set_ylim(-0.2 * threshold, 1.3 * high)
        ticks = [0.0, *(tick for tick in ticks if tick >= threshold)]
    else:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.3, 1.3 * high)
    _set_ticks(ax, ticks, "{:g} %")


def _set_ticks(ax: Axes, ticks: list[float], text: str) -> None:
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: text.format(y)))
    ax.grid(axis="y", alpha=0.3)
