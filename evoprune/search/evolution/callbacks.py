"""Callbacks, which are called after each generation of an evolution."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol

from deap import tools

from evoprune.errors import InputError
from evoprune.search.evolution.state import State


class Callback(Protocol):
    """A callback of :func:`evoprune.search.evolution.evolve.evolve`.

    An error that it raises ends the run; the generation is on disk by then, and the run resumes. A run that was killed between
    the two does not call again for that generation, and one whose checkpoint was damaged calls twice.
    """

    def on_generation(self, state: State) -> None:
        """Called after each generation; a resumed run does not call it again for earlier generations.

        Args:
            state: The state after the generation; do not change it. ``state.logbook[-1]`` is the generation's record.
        """


class TensorBoard:
    """Writes the statistics of each generation for TensorBoard, an optional extra: ``pip install evoprune[tensorboard]``.

    Args:
        folder: Folder of the event files.

    Raises:
        InputError: TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("TensorBoard is not installed; pip install tensorboard, or leave --tensorboard out.") from error
        self._writer = SummaryWriter
        self._begun = False
        self.folder = Path(folder).absolute()
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"cannot write to {folder}: {there} is no folder that can be written; choose another.")

    def on_generation(self, state: State) -> None:
        """Writes the last record, and the first time all records: ``fitness/min``, ``loss/mean``, ``diversity`` and so on."""
        records = range(len(state.logbook))
        # records of an earlier process are written again, and the old ones no longer count
        purge = {} if self._begun else {"purge_step": 0}
        with self._writer(str(self.folder), **purge) as writer:
            for i in records if not self._begun else records[-1:]:
                for name, value in _scalars(state.logbook, i).items():
                    if math.isfinite(value):
                        writer.add_scalar(name, value, state.logbook[i]["gen"])
        self._begun = True


def _scalars(logbook: tools.Logbook, i: int) -> dict[str, float]:
    record = logbook[i]
    values = {f"fitness/{name}": record[name] for name in ("best", "min", "mean", "max", "std")}
    values |= {name: record[name] for name in ("nevals", "diversity", "chance_diversity", "seconds")}
    for chapter, rows in logbook.chapters.items():
        # a layer has the min, mean, max and best of its survivors: the mean
        values |= {f"{chapter}/{k}": v[1] if isinstance(v, list) else v for k, v in rows[i].items() if k != "gen"}
    return values
