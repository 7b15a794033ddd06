"""The course of a plot script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evoprune.cli.guard import guard, parse
from evoprune.figures import drawing
from evoprune.system import signals
from evoprune.system.files import write_atomically


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
        with drawing.importing_matplotlib():
            from evoprune.figures import runs as plot
    path = options.out or options.run / f"{name}.png"
    try:
        content = drawing.to_bytes(lambda: plot.FIGURES[name](options.run), path.suffix.removeprefix(".").lower() or "png")
    except Exception as error:
        raise drawing.cannot_draw(str(path), error) from error
    if options.out is None:
        write_atomically(path, content)  # follows no link that lies there
    else:
        path.write_bytes(content)
    print(path)
