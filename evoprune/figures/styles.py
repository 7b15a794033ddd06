"""How the methods of a comparison look in its figures, and the scales that they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow and the black.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#7F7F7F"

# Colour and label of the trainings that are drawn, by role; a run may have others.
ROLE_COLORS = {"winner": VERMILLION, "random": SKY, "validation": GREEN, "start": BLUE}
ROLE_LABELS = {
    "winner": "winner (fittest)",
    "random": "random start",
    "validation": "least validation loss",
    "start": "fittest start",
}
MOVEMENT_LABELS = {
    "absolute": "absolute movement, log10 of |w - w0| / mean |w0|",
    "relative": "relative movement, log10 of |w - w0| / |w0|",
    "random": "log10 of a random number",
    "magnitude": "log10 of |w| / mean |w0|",
}

# A colour, a marker and a line for each of the first methods of the registry, the same in every figure: Okabe and Ito's colours
# and, as those are eight, Tol's muted ones. Markers help colour-blind readers and prints in grey.
_LOOKS = (
    ("#000000", "H", "-"), ("#0072B2", "o", "-"), ("#D55E00", "s", "-"), ("#CC79A7", "D", "-"), ("#CC6677", (4, 1, 0), "-."),
    ("#661100", "p", "-."), ("#DDCC77", (6, 1, 0), ":"), ("#009E73", "^", "-"), ("#56B4E9", "v", "--"), ("#E69F00", "<", "--"),
    ("#882255", ">", "--"), ("#332288", "P", "--"), ("#999933", "X", ":"), ("#7F7F7F", "*", ":"),
)  # fmt: skip
_MORE_COLORS = ("#44AA99", "#B8A500", "#AA4499", "#117733", "#6699CC")
_MORE_MARKERS = (
    "h",
    "d",
    "8",
    (3, 1, 0),
    (7, 1, 0),
    (8, 1, 0),
    "1",
)  # seven and five colours: 35 pairs pass before one repeats
_ERROR_TICKS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
_LETTERS = 12.0  # an inch, of the usual size
_NAMES = 10.0  # an inch, vertically, in small letters
_LONGEST = 50  # letters
_LEAST_ERROR = 0.01  # percent; the scale has no place for an error of zero

Look = dict[str, dict[str, Any]]


def styles(methods: Iterable[str]) -> Look:
    """Returns colour, marker and line of each method.

    The first methods of the registry have theirs for good. The others get, in their order among the given ones, the colour that
    differs most from those beside it, so panels that are read together need the styles of all their methods.
    """
    from evoprune.comparison import methods as compared  # slow to import, and no figure of a single run needs it
    from evoprune.comparison.statistics import ordered

    registered: dict[str, tuple[Any, ...]] = dict(zip(compared.names(), _LOOKS, strict=False))
    names = ordered(methods)
    looks = {name: registered[name] for name in names if name in registered}
    colors = _apart(_MORE_COLORS, [look[0] for look in looks.values()])
    for i, name in enumerate(name for name in names if name not in registered):
        looks[name] = (colors[i % len(colors)], _MORE_MARKERS[i % len(_MORE_MARKERS)], "-.")
    return {name: dict(zip(("color", "marker", "linestyle"), looks[name], strict=True)) for name in names}


def _apart(colors: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Returns colours in an order in which each next one is the farthest from those before it and those that are taken."""
    left, used = list(colors), [to_rgb(color) for color in taken]
    order: list[str] = []
    while left:
        order.append(max(left, key=lambda color: min((math.dist(to_rgb(color), other) for other in used), default=0.0)))
        left.remove(order[-1])
        used.append(to_rgb(order[-1]))
    return order


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
    shown = [tick for tick in ticks if max(0.0, limits[0]) <= tick <= limits[1]]
    if len(shown) < 3:  # a narrow range falls between them
        shown = [float(tick) for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*limits) if 0 <= tick <= 100]
    _set_ticks(ax, shown, "{:.6g}")


def scale_cost(ax: Axes, low: float, high: float) -> None:
    """Puts costs, of which low and high are the least and the greatest, on a log scale with at least three ticks."""
    ax.set_xscale("log")
    for steps in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [m * 10.0**k for k in range(-6, 12) for m in steps]
        if sum(low <= tick <= high for tick in ticks) > 2:
            break
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


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


def name_layers(ax: Axes, sizes: Mapping[str, int], width: float) -> None:
    """Names layers along the x axis, with the number of their weights: horizontally, or slanted or vertically if they are long.

    Args:
        ax: The axes, with the layers at 0, 1, 2, ...
        sizes: The number of weights of each layer, by name.
        width: The width of the axes in inches, roughly.
    """
    if not has_long_names(sizes, width):
        ax.set_xticks(range(len(sizes)), [f"{name}\nof {n:,}" for name, n in sizes.items()])
        return
    step = math.ceil(len(sizes) / (_NAMES * width))  # in very deep networks, only every other layer or fewer have room
    names = [f"{_shortened(name.removesuffix('.weight'))} ({n:,})" for name, n in sizes.items()][::step]
    slant: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    many = len(names) > 3 * width
    ax.set_xticks(range(0, len(sizes), step), names, fontsize=6 if many else "small", **({"rotation": 90} if many else slant))


def has_long_names(sizes: Mapping[str, int], width: float) -> bool:
    """Tells whether names of layers are too long to stand side by side horizontally; they need room below the axes then."""
    longest = max((len(line) for name, n in sizes.items() for line in (name, f"of {n:,}")), default=0)
    return longest * len(sizes) > _LETTERS * width


def _shortened(name: str) -> str:
    """Returns a name without its middle if it is very long; its end tells layers apart best."""
    return name if len(name) <= _LONGEST else f"{name[:5]}…{name[6 - _LONGEST :]}"


def _set_ticks(ax: Axes, ticks: list[float], text: str) -> None:
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: text.format(y)))
    ax.grid(axis="y", alpha=0.3)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the distinct points that no other dominates, both numbers the larger the better; the first one ascends."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]
