"""The command ``evoprune plot``: one figure of a run, or all figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evoprune.cli.forms import form, parse
from evoprune.cli.guard import guard
from evoprune.errors import look_up
from evoprune.system import loading, signals


@dataclass(frozen=True)
class PlotOptions:
    """Options of every figure."""

    run: Path = field(default=Path(), metadata={"positional": True})
    """Folder of the run, or of the comparison."""
    out: Path | None = None
    """File to write, with an ending such as .png or .pdf. None: a PNG in the folder."""
    load: tuple[Path, ...] = ()
    """Your Python files, which register figures; see the manual."""


def plot_main(name: str, description: str | None) -> None:
    """Draws one figure of a run, as the scripts in ``plots`` do; an error of the user ends the process with status 2."""
    guard(lambda: _draw(name, description, None, None))


def plot(arguments: Sequence[str], prog: str | None) -> None:
    """Runs ``evoprune plot FIGURE FOLDER``.

    Raises:
        InputError: No such figure, or it cannot be drawn.
    """
    from evoprune.figures import drawing

    with drawing.importing_matplotlib():
        from evoprune.figures.runs import FIGURES
    names = dict.fromkeys([*FIGURES, "compare"])
    if not arguments or arguments[0].startswith("-"):
        usage = "usage: evoprune plot FIGURE FOLDER [--out FILE] [--load FILES]"
        print(f"{usage}\n\nDraw a figure of a run, or with compare all figures of a comparison.\n\nFigures: {', '.join(names)}")
        return
    name, *rest = arguments
    look_up("figure", name, names)
    if name == "compare":
        folder = parse(form(PlotOptions), "Draw all figures of a comparison.", rest, f"{prog} compare").run
        draw_comparison(folder)
        return
    _draw(name, FIGURES[name].__doc__, rest, f"{prog} {name}")


def draw_comparison(folder: Path) -> None:
    """Draws every figure of a comparison, writes its table again, and prints where they are."""
    from evoprune.comparison.markdown import write_tables
    from evoprune.figures.comparisons import save_compare_figures

    print(write_tables(folder), *save_compare_figures(folder, strict=True), sep="\n")


def _draw(name: str, description: str | None, arguments: Sequence[str] | None, prog: str | None) -> None:
    with signals.nothing_begun():
        options = parse(form(PlotOptions), description, arguments, prog)
        from evoprune.figures.runs import write_figure

        for path in options.load:
            loading.load(path)
    print(write_figure(name, options.run, options.out))
