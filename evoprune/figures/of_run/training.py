"""Loss and accuracy by epoch, for the winner and the controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.comparison.frames import read_frame
from evoprune.figures.of_run.reading import is_finished, read_finished
from evoprune.figures.styles import ROLE_COLORS, ROLE_LABELS

PANELS = ("train_loss", "validation_loss", "validation_accuracy")


def suits(folder: Path) -> bool:
    """Tells whether a run folder has the data."""
    return is_finished(folder)


def training_figure(folder: Path) -> Figure:
    """Draws loss, and accuracy if there is one, by epoch, for the winner and the controls."""
    histories = read_histories(folder)
    is_accuracy = next(iter(histories.values()))["validation_accuracy"].notna().iloc[-1]
    columns = PANELS if is_accuracy else PANELS[:-1]
    figure = Figure(figsize=(4.5 * len(columns), 4), layout="constrained")
    for ax, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
        plot_training(ax, histories, column)
    return figure


def read_histories(folder: Path) -> dict[str, pd.DataFrame]:
    """Reads ``history.csv``: the rows after each epoch, by role.

    Raises:
        InputError: There is no such file.
    """
    read_finished(folder, "history.csv")
    rows = read_frame(folder / "history.csv", ("role", "epoch", *PANELS), text=("role",))
    return {str(role): own for role, own in rows.groupby("role", sort=False)}


def plot_training(ax: Axes, histories: Mapping[str, pd.DataFrame], column: str) -> None:
    """Draws one column of the training histories against the epoch, a line a role; roles without a label are left out."""
    shown = {role: rows for role, rows in histories.items() if role in ROLE_LABELS}
    for (role, rows), style in zip(shown.items(), ("-", "--", ":", "-."), strict=False):
        ax.plot(rows["epoch"], rows[column], style, color=ROLE_COLORS[role], marker=".", label=ROLE_LABELS[role], linewidth=2)
    ax.set_xlabel("epoch")
    ax.set_ylabel(column.replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small")
