"""Figures and table of a comparison: reads its folder (cells.csv and the CSV files beside it) only, and writes into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evoprune.cli.guard import guard, parse
from evoprune.figures import drawing
from evoprune.system import signals


@dataclass(frozen=True)
class Options:
    """Options of the script."""

    folder: Path
    """Folder of the comparison."""


def main() -> None:
    """Redraws every figure, writes the table again, and says where they are."""
    with signals.nothing_begun():
        import tyro

        folder = parse(Options, __doc__, config=(tyro.conf.PositionalRequiredArgs,)).folder
        with drawing.importing_matplotlib():
            from evoprune.comparison import markdown as tables
            from evoprune.figures import comparisons as plot_compare
    print(tables.write_tables(folder), *plot_compare.save_compare_figures(folder, strict=True), sep="\n")


if __name__ == "__main__":
    guard(main)
