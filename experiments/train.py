"""Trains a mask that was found elsewhere, fully from the initial weights, with records and all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

import evoprune as ep
from evoprune import cli


@dataclass(frozen=True)
class TrainOptions(cli.Options):
    """Options of the training of a mask."""

    mask: tyro.conf.Positional[Path] = tyro.MISSING
    """The mask: a file that Mask.save wrote, or a run folder."""


def search(problem: ep.Problem, options: TrainOptions, folder: Path) -> ep.Result:
    """Trains the mask with the script's options."""
    return ep.train_mask(problem, **cli.arguments(ep.train_mask, options), out=folder, progress=True)


if __name__ == "__main__":
    cli.main("train", TrainOptions, search, __doc__)
