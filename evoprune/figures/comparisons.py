"""The figures of a comparison: the registry, and every figure that its folder has a table for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evoprune.comparison.frames import read_table
from evoprune.figures import drawing
from evoprune.system.files import plain_name, require_own

with drawing.importing_matplotlib():
    from evoprune.figures.of_comparison import accuracy, cost, layers, movement, overlap
    from evoprune.figures.of_comparison.panels import Group, groups_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ComparisonFigure:
    """A figure of comparisons.

    Attributes:
        draw: Returns the figure of a comparison's folder and one (data, model) group.
        table: Name of the table that it is drawn from.
    """

    draw: Callable[[Path, Group | None], Figure]
    table: str

    def __call__(self, folder: Path, group: Group | None = None) -> Figure:
        """Returns the figure; the group may be left out if there is only one."""
        return self.draw(folder, group)


COMPARE_FIGURES: dict[str, ComparisonFigure] = {
    "accuracy": ComparisonFigure(accuracy.accuracy_figure, "cells.csv"),
    "cost": ComparisonFigure(cost.cost_figure, "cells.csv"),
    "layers": ComparisonFigure(layers.layers_figure, "layers.csv"),
    "overlap": ComparisonFigure(overlap.overlap_figure, "overlaps.csv"),
    "movement": ComparisonFigure(movement.movement_figure, "movement.csv"),
}


def save_compare_figures(folder: Path, strict: bool = False) -> list[Path]:
    """Writes every figure whose table is there into a comparison's folder, as PNG.

    They are called ``NAME-DATA-MODEL.png``, with dashes for colons, even if there is only one group.

    Args:
        folder: Folder of the comparison.
        strict: Raise an error if a figure cannot be drawn; otherwise a warning names it.

    Returns:
        The paths of the figures that could be drawn.

    Raises:
        InputError: A table cannot be read or used, a symbolic link leads out of the folder, or, with ``strict``, a figure
            cannot be drawn.
    """
    require_own(folder)
    drawings: list[drawing.Drawing] = []
    for name, figure in COMPARE_FIGURES.items():
        table = folder / figure.table
        if table.exists():
            for group in groups_of(read_table(table, ("data", "model"), ("data", "model"))):
                path = folder / plain_name(f"{'-'.join([name, *group])}.png".replace(":", "-"), str(table))
                drawings.append((path, functools.partial(figure, folder, group)))
    return drawing.save(drawings, strict)
