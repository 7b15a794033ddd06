"""The figures of a run: the registry, and every figure that a run folder has data for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.figures import drawing
from evoprune.registry import Registry
from evoprune.system.files import plain_name, require_own, write_atomically

with drawing.importing_matplotlib():
    from evoprune.figures.of_run import (
        confusion,
        dissipation,
        diversity,
        finals,
        fitness,
        fronts,
        inputs,
        layers,
        lineage,
        starts,
        survivors,
        training,
    )
    from evoprune.figures.of_run.reading import is_finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Path], "Figure"]
Suits = Callable[[Path], bool]


@dataclass(frozen=True)
class RunFigure:
    """A figure of runs.

    Attributes:
        draw: Returns the figure of a run folder.
        suits: Tells whether a run folder has the data for it.
    """

    draw: Draw
    suits: Suits = is_finished

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.draw.__doc__)  # for the command line's help

    def __call__(self, folder: Path) -> Figure:
        """Returns the figure of a run folder."""
        return self.draw(folder)


def _entry(thing: Any) -> RunFigure:
    return thing if isinstance(thing, RunFigure) else RunFigure(thing, getattr(thing, "suits", is_finished))


FIGURES = Registry(
    "figure",
    {
        "starts": RunFigure(starts.starts_figure, starts.suits),
        "training": RunFigure(training.training_figure, training.suits),
        "layers": RunFigure(layers.layers_figure, layers.suits),
        "dissipation": RunFigure(dissipation.dissipation_figure, dissipation.suits),
        "fitness": RunFigure(fitness.fitness_figure, fitness.suits),
        "finals": RunFigure(finals.finals_figure, finals.suits),
        "diversity": RunFigure(diversity.diversity_figure, diversity.suits),
        "survivors": RunFigure(survivors.survivors_figure, survivors.suits),
        "fronts": RunFigure(fronts.fronts_figure, fronts.suits),
        "lineage": RunFigure(lineage.lineage_figure, lineage.suits),
        "inputs": RunFigure(inputs.inputs_figure, inputs.suits),
        "confusion": RunFigure(confusion.confusion_figure, confusion.suits),
    },
    _entry,
)


def register_figure(name: str, draw: Any, suits: Suits | None = None) -> Any:
    """Registers a figure of runs, which is then drawn with every run that it suits; see ``ep.register.figure``.

    Args:
        name: Its name, and that of its file.
        draw: Returns the figure of a run folder.
        suits: Tells whether a run folder has the data for it; None for the attribute ``suits`` of ``draw``, or else every
            finished run.

    Returns:
        ``draw``.

    Raises:
        InputError: The name cannot be that of a file, or stands for another figure.
    """
    plain_name(f"{name}.png", "the name of a figure")
    if suits is not None:
        draw.suits = suits
    return FIGURES.register(name, draw)


def figures_of(folder: Path) -> list[str]:
    """Returns the names of the figures that a run has data for."""
    return [name for name, figure in FIGURES.items() if _suits(name, figure, folder)]


def _suits(name: str, figure: RunFigure, folder: Path) -> bool:
    try:
        return figure.suits(folder)
    except Exception as error:
        if name not in FIGURES.own:
            raise
        drawing.warn(f"{name}.png", error)
        return False


def save_figures(folder: Path) -> list[Path]:
    """Writes the figures of a run into its folder, as PNG, and returns the paths of those that could be drawn.

    Raises:
        InputError: A symbolic link leads out of the folder.
    """
    require_own(folder)
    names = figures_of(folder)
    return drawing.save((folder / f"{name}.png", functools.partial(FIGURES[name], folder)) for name in names)


def write_figure(name: str, folder: Path, out: Path | None = None) -> Path:
    """Writes one figure of a run, and returns its path.

    Args:
        name: Name of the figure.
        folder: The run folder.
        out: The file, with an ending such as .png or .pdf; None for a PNG in the run folder.

    Raises:
        InputError: There is no such figure, or it cannot be drawn.
    """
    figure, path = FIGURES.find(name), out or folder / f"{name}.png"
    try:
        content = drawing.to_bytes(lambda: figure(folder), path.suffix.removeprefix(".").lower() or "png")
    except Exception as error:
        raise drawing.cannot_draw(str(path), error) from error
    if out is None:
        write_atomically(path, content)  # follows no link that lies there
    else:
        path.write_bytes(content)
    return path
