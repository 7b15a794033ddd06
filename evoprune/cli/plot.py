"""The course of a plot script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evoprune.cli.guard import guard, parse
from evoprune.system import signals


@dataclass(frozen=True)
class PlotOptions:
    """Options of every plot."""

    run: Path
    """Folder of the run."""
    out: Path | None = None
    """File to write, with an ending such as .png or .pdf; None: a PNG in the run's folder."""


def plot_main(name: str, description: str | None) -> None:
    """Draws one figure of a run, and says where it is; a user's error ends the process with status 2."""
    guard(lambda: _plot(name, description))


def _plot(name: str, description: str | None) -> None:
    with signals.nothing_begun():
        import tyro

        options = parse(PlotOptions, description, config=(tyro.conf.PositionalRequiredArgs,))
        from evoprune.figures.runs import write_figure
    print(write_figure(name, options.run, options.out))


@dataclass(frozen=True)
class ComparisonOptions:
    """Options of the plot of a comparison."""

    folder: Path
    """Folder of the comparison."""


def plot_comparison_main(description: str | None) -> None:
    """Draws every figure of a comparison, writes its table again, and says where they are."""
    guard(lambda: _plot_comparison(description))


def _plot_comparison(description: str | None) -> None:
    with signals.nothing_begun():
        import tyro

        folder = parse(ComparisonOptions, description, config=(tyro.conf.PositionalRequiredArgs,)).folder
        from evoprune.comparison.markdown import write_tables
        from evoprune.figures.comparisons import save_compare_figures
    print(write_tables(folder), *save_compare_figures(folder, strict=True), sep="\n")
