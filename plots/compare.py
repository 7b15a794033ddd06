"""Figures and table of a comparison: reads its folder (cells.csv and the CSV files beside it) only, and writes into it."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from evoprune import cli, plot_compare, tables


@dataclass(frozen=True)
class Options:
    """Options of the script."""

    folder: tyro.conf.Positional[Path]
    """Folder of the comparison."""


def main() -> None:
    """Redraws every figure, writes the table again, and says where they are."""
    folder = tyro.cli(Options, description=__doc__).folder
    cli.guard(lambda: print(tables.write_tables(folder), *plot_compare.save_compare_figures(folder), sep="\n"))


if __name__ == "__main__":
    main()
