"""Panels, captions and legends that the figures of a comparison share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evoprune.comparison.statistics import metric
from evoprune.errors import InputError
from evoprune.figures.styles import scale_accuracy, styles

Group = tuple[str, str]
# Letters of a caption in an inch.
LETTERS = 13


def groups_of(frame: pd.DataFrame) -> list[Group]:
    """Returns the pairs of data and model, in the order of the rows."""
    return list(dict.fromkeys(zip(frame["data"], frame["model"], strict=True)))


def select(frame: pd.DataFrame, group: Group | None) -> pd.DataFrame:
    """Returns the rows of a group, which may be left out if there is only one.

    Raises:
        InputError: There is no such group, or none is given and there are several.
    """
    groups = groups_of(frame)
    if group is None and len(groups) == 1:
        group = groups[0]
    if group not in groups:
        raise InputError(f"a figure is of one (data, model) group; got {group}, expected one of {groups}.")
    return frame[(frame["data"] == group[0]) & (frame["model"] == group[1])]


def of_main_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the main table, or, if there are none, those of the smallest budget."""
    without = frame["budget"].isna()
    return frame[without] if without.any() else frame[frame["budget"] == frame["budget"].min()]


def scale_quality(ax: Axes, cells: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Scales and labels the axis of test accuracy, or of test loss where there is no accuracy."""
    ax.grid(alpha=0.3)
    if metric(cells) == "test_loss":
        ax.set_yscale("log")
        ax.set_ylabel("test loss (log scale)")
        return
    ax.set_ylabel("test accuracy in percent (log scale of the error)")
    if summary.empty:
        return
    # The observed values decide: the interval of a mean of two is 13 times as wide, and is cut off at the end of the axis.
    observed = 100 * cells["test_accuracy"].dropna()
    scale_accuracy(ax, observed.min(), observed.max())


def grid(figure: Figure, n: int) -> list[Axes]:
    """Returns the axes of n panels."""
    columns = _columns(n)
    axes: list[Axes] = list(figure.subplots(max(1, -(-n // columns)), columns, squeeze=False).flat)
    for ax in axes[n:]:
        ax.set_visible(False)
    return axes[:n]


def _columns(n: int) -> int:
    return max(1, min(n, 2 if n <= 4 else 4))


def size(n: int, width: float, height: float) -> tuple[float, float]:
    """Returns width and height, in inches, of a figure of n panels."""
    return 2.0 + width * _columns(n), 0.6 + height * max(1, -(-n // _columns(n)))


def seeds(frame: pd.DataFrame) -> str:
    """Returns the number of seeds, for a caption."""
    n = frame["seed"].nunique()
    return f"{n} seed{'' if n == 1 else 's, fewer where cells are missing'}"


def finish(figure: Figure, frame: pd.DataFrame, caption: str, methods: Sequence[str] | pd.Series[str] = ()) -> None:
    """Adds title, caption and a legend of methods; failed cells are counted in the caption."""
    figure.suptitle(f"{frame['data'].iloc[0]}, {frame['model'].iloc[0]}")
    if "test_accuracy" in frame and (failed := int(frame[metric(frame)].isna().sum())):
        caption += f"; {failed} failed cell{'' if failed == 1 else 's'} left out"
    figure.supxlabel(textwrap.fill(caption, round(LETTERS * figure.get_figwidth())), fontsize="small")
    handles = [Line2D([], [], label=name, **style) for name, style in styles(methods).items()]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize="small", handlelength=3)
