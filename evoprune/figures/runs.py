"""The figures of a run: the registry, and every figure that a run folder has data for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from evoprune.figures import drawing
from evoprune.figures.of_run import (
    dissipation,
    diversity,
    finals,
    fitness,
    fronts,
    layers,
    reading,
    starts,
    survivors,
    training,
)
from evoprune.system.files import require_own


@dataclass(frozen=True)
class RunFigure:
    """A figure of runs.

    Attributes:
        draw: Returns the figure of a run folder.
        suits: Tells whether a run folder has data for it.
    """

    draw: Callable[[Path], Figure]
    suits: Callable[[Path], bool] = reading.is_finished

    def __call__(self, folder: Path) -> Figure:
        """Returns the figure of a run folder."""
        return self.draw(folder)


FIGURES: dict[str, RunFigure] = {
    "starts": RunFigure(starts.starts_figure, starts.suits),
    "training": RunFigure(training.training_figure, training.suits),
    "layers": RunFigure(layers.layers_figure, layers.suits),
    "dissipation": RunFigure(dissipation.dissipation_figure, dissipation.suits),
    "fitness": RunFigure(fitness.fitness_figure, fitness.suits),
    "finals": RunFigure(finals.finals_figure, finals.suits),
    "diversity": RunFigure(diversity.diversity_figure, diversity.suits),
    "survivors": RunFigure(survivors.survivors_figure, survivors.suits),
    "fronts": RunFigure(fronts.fronts_figure, fronts.suits),
}


def figures_of(folder: Path) -> list[str]:
    """Returns the names of the figures that a run has data for."""
    return [name for name, figure in FIGURES.items() if figure.suits(folder)]


def save_figures(folder: Path) -> list[Path]:
    """Writes the figures of a run into its folder, as PNG, and returns the paths of those that could be drawn.

    Raises:
        InputError: A symbolic link leads out of the folder.
    """
    require_own(folder)
    names = figures_of(folder)
    return drawing.save((folder / f"{name}.png", functools.partial(FIGURES[name], folder)) for name in names)
