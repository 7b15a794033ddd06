"""The full training of a mask that was found elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.one_mask import Found, train_found
from evoprune.search.session import Plan, Where


def train_mask(
    problem: Problem,
    mask: Mask | str | os.PathLike[str],
    *,
    seed: int | None = None,
    engine: str = "auto",
    threads: int = 1,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Trains a mask that was found elsewhere, fully from W0, with records and all.

    Args:
        problem: The problem.
        mask: The mask, of any number of survivors, or the path of one that :meth:`evoprune.Mask.save` wrote, or of a run
            folder. Of arrays of zeros and ones it is ``ep.Mask.from_layers({"fc1.weight": array, ...})``.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.registry.ENGINES`; ``auto`` chooses by measured costs.
        threads: Threads that torch uses.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The mask, its trained network and the records; what it took to find the mask is not known, and not counted.

    Raises:
        InputError: The mask does not fit the network, or keeps nothing; or a value is out of range, or ``out`` cannot be used.
        RunError: The training diverged.
    """
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
    found = Found(Mask(mask.bits, mask.shapes))
    settings = {"of": mask.hash, "sparsity": mask.sparsity}
    where = Where("serial", threads, out, force, progress)
    return train_found(problem, Plan("train", 1), lambda: found, settings, seed, engine, where)
