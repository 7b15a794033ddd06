"""Trains a mask that was found elsewhere, fully from the initial weights, with records and all."""

from dataclasses import dataclass
from pathlib import Path

import evoprune as ep
from evoprune.cli import main as cli
from evoprune.cli.options import Options, arguments


def options() -> type[Options]:
    """Returns the class of the options."""
    import tyro  # takes a second

    @dataclass(frozen=True)
    class TrainOptions(Options):
        """Options of the training of a mask."""

        mask: tyro.conf.Positional[Path] = tyro.MISSING
        """The mask: a file that Mask.save wrote, or a run folder."""

    return TrainOptions


def search(problem: ep.Problem, options: Options, folder: Path) -> ep.Result:
    """Trains the mask with the script's options."""
    return ep.train_mask(problem, **arguments(ep.train_mask, options), out=folder, progress=True)


if __name__ == "__main__":
    cli.main("train", options, search, __doc__)
