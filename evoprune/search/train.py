"""The full training of a mask that was found elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.course import run
from evoprune.search.method import Cost, Found
from evoprune.search.session import Session


@dataclass(frozen=True)
class TrainOptions:
    """Options of the training of a mask."""

    mask: Path | None = field(default=None, metadata={"positional": True})
    """The mask: a file that Mask.save wrote, or a run folder; in Python also a mask."""


class Train:
    """Train a mask that was found elsewhere, fully from the initial weights.

    Args:
        session: The session.
        options: The options.
    """

    Options = TrainOptions

    def __init__(self, session: Session, options: TrainOptions) -> None:
        self.session, self.mask = session, mask_of(session.problem, options)

    def find(self) -> Found:
        """Returns the mask; the cost of finding it is not known, and not counted."""
        return Found(self.mask)

    @staticmethod
    def require(problem: Problem, options: TrainOptions) -> None:
        """Checks the mask.

        Raises:
            InputError: It does not fit the network, or keeps no weights.
        """
        mask_of(problem, options)

    @staticmethod
    def settings(problem: Problem, options: TrainOptions) -> dict[str, Any]:
        """Returns the options as a run records them."""
        mask = mask_of(problem, options)
        return {"of": mask.hash, "sparsity": mask.sparsity}

    @staticmethod
    def cost(problem: Problem, options: TrainOptions) -> Cost:
        """Returns the planned cost."""
        density = 1 - mask_of(problem, options).sparsity
        return lambda epochs: epochs * density


def mask_of(problem: Problem, options: TrainOptions) -> Mask:
    """Returns the mask that the options name.

    Raises:
        InputError: It cannot be read, does not fit the network, or keeps no weights.
    """
    mask: Any = options.mask
    if not isinstance(mask, Mask):
        if not isinstance(mask, (str, os.PathLike)):
            raise InputError(
                f"mask is {type(mask).__name__}; expected ep.Mask, such as ep.Mask.from_layers({{'fc1.weight': array, ...}}), "
                f"or the path of one."
            )
        path = Path(mask).expanduser().absolute()
        mask = Mask.load(path / "mask.npz" if path.is_dir() else path)
    mask.require(problem.shapes)
    if not mask.survivors:
        raise InputError("the mask keeps no weights; expected at least one.")
    return Mask(mask.bits, mask.shapes)


def train_mask(problem: Problem, mask: Mask | str | os.PathLike[str], **options: Any) -> Result:
    """Trains a mask that was found elsewhere, fully from W0, with all records.

    Args:
        problem: The problem.
        mask: The mask, with any number of survivors, or the path of one that :meth:`evoprune.Mask.save` wrote, or of a
            run folder. ``ep.Mask.from_layers({"fc1.weight": array, ...})`` makes one from arrays of zeros and ones.
        **options: Fields of :class:`evoprune.search.execution.Execution`.

    Returns:
        The mask, its trained network and the records; the cost of finding the mask is not known, and not counted.

    Raises:
        InputError: The mask does not fit the network, or keeps no weights; or a value is out of range, or ``out`` is unusable.
        RunError: The training diverged.
    """
    return run("train", Train, problem, {"mask": mask, **options})
