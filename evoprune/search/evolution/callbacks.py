"""Callbacks: what is called after each generation of an evolution."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol

from deap import tools

from evoprune.errors import InputError
from evoprune.search.evolution.state import State


class Callback(Protocol):
    """What :func:`evoprune.search.evolution.evolve.evolve` calls.

    An error that it raises ends the run; the generation is on disk by then, and the run resumes. A run that was killed between
    the two does not call again for that generation, and one whose checkpoint was damaged calls twice.
    """

    def on_generation(self, state: State) -> None:
        """Is called after each generation; a resumed run does not call again for the generations before.

        Args:
            state: The state after it; not to be changed. ``state.logbook[-1]`` is the generation's record.
        """


class TensorBoard:
    """Writes the statistics of each generation for TensorBoard, an optional extra: ``pip install evoprune[tensorboard]``.

    Args:
        folder: Folder of the event files.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("TensorBoard is not installed; pip install tensorboard, or leave --tensorboard out.") from error
        self._writer = SummaryWriter
        self._begun = False
        self.folder = Path(folder).absolute()

    def on_generation(self, state: State) -> None:
        """Writes the last record, and the first time all: ``fitness/min``, ``loss/mean``, ``diversity`` and so on."""
        records = range(len(state.logbook))
        # what an earlier process wrote is written again, and no longer counts
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
        # of a layer's survivors (min, mean, max, and the best mask's) the mean
        values |= {f"{chapter}/{k}": v[1] if isinstance(v, list) else v for k, v in rows[i].items() if k != "gen"}
    return values
