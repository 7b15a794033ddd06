"""Evolution: sparse masks over generations, by mutation, crossover and selection; the fittest is trained fully."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import evoprune as ep
from evoprune.cli import main as cli
from evoprune.cli.options import Options, arguments


@dataclass(frozen=True)
class SearchOptions(Options):
    """Options of an evolution, but for those of its course, which take seconds to import."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""
    fitness: tuple[str, ...] = ("loss",)
    """What a brief training is scored by: loss (minus the validation loss), accuracy (on the validation set), magnitude (sum
    over the survivors of |w|), gradient (sum over the last epoch's steps and the survivors of |g|), combined (both, each
    divided by its mean over the first generation), or sparsity. Several are as many objectives, such as accuracy and sparsity
    (with the mutation sparsity)."""
    fitness_epochs: int = 1
    """Epochs of the brief training: the first of --epochs. 0 judges untrained networks, by loss, accuracy or magnitude."""
    layer_densities: str = "varied"
    """How the survivors of a random mask spread over the layers: uniform, erk, or varied (ERK's, times random factors)."""
    restart: bool = False
    """Train the fittest mask from the initial weights with another order of the batches, instead of going on from where it
    is."""
    controls: bool = True
    """Also train the fittest mask of the first generation, which k-starts would have chosen (where sparsity rises, of the first
    one at the asked sparsity)."""
    trained_bests: int = 8
    """Train so many of the generations' fittest masks fully, too, for the figure of final accuracy against fitness."""
    chunk_size: int = 8
    """Masks that are trained together, where the engine can."""
    workers: str = "auto"
    """Who evaluates: serial, scoop, auto (SCOOP under `python -m evoprune.scoop`, else serial), dask:N (a local cluster of N
    processes) or the address of a Dask scheduler, such as tcp://host:8786. Not a setting: the result is the same,
    but for --steady-state."""
    evaluation_timeout: float | None = None
    """Seconds that the evaluation of a mask may take; one that takes longer is ended, and the mask gets the worst fitness.
    Needs `python -m evoprune.scoop`, or Dask. None: no limit."""
    retry_failed: bool = False
    """Go back to before the first mask that the machine failed, by a lack of memory or the like, and evaluate it again; else it
    keeps the worst fitness."""
    tensorboard: Path | None = None
    """Folder to write the generations' statistics to, for TensorBoard (an optional extra). None: do not."""


def options() -> type[SearchOptions]:
    """Returns the class of all options."""

    @dataclass(frozen=True)
    class EvolveOptions(ep.Evolution, SearchOptions):
        """Options of an evolution."""

        start: tuple[str, ...] = ("random",)
        """The first generation: random (random masks), the name of a baseline (snip, grasp, synflow, magnitude, erk, ...),
        dissipate (the mask that dissipating gradients leave), or the path of a mask.npz or of a run folder. Several may be
        given, and random ones fill up. What it took to find masks that are given by path is not counted."""

    return EvolveOptions


def search(problem: ep.Problem, options: SearchOptions, folder: Path) -> ep.Result:
    """Evolves masks with the script's options."""
    evolution = ep.Evolution(**{field.name: getattr(options, field.name) for field in dataclasses.fields(ep.Evolution)})
    callbacks = [] if options.tensorboard is None else [ep.TensorBoard(options.tensorboard)]
    given = arguments(ep.evolve, options)
    return ep.evolve(problem, evolution, **given, callbacks=callbacks, out=folder, progress=True)


if __name__ == "__main__":
    cli.main("evolve", options, search, __doc__)
