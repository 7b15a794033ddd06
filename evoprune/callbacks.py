"""Callbacks: what is called after each generation of an evolution."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol

from evoprune.checkpoint import State
from evoprune.errors import InputError


class Callback(Protocol):
    """What :func:`evoprune.algorithms.evolve` calls.

    An error that it raises ends the run; the generation is on disk by then, and the run resumes.
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
        self.folder = Path(folder)

    def on_generation(self, state: State) -> None:
        """Writes a generation's record: ``fitness/min``, ``loss/mean``, ``diversity`` and so on, by generation."""
        logbook = state.logbook
        record = logbook[-1]
        values = {f"fitness/{name}": record[name] for name in ("best", "min", "mean", "max", "std")}
        values |= {name: record[name] for name in ("nevals", "diversity", "chance_diversity", "seconds")}
        for chapter, rows in logbook.chapters.items():
            values |= {f"{chapter}/{name}": value for name, value in rows[-1].items() if name != "gen"}
        with self._writer(str(self.folder)) as writer:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    writer.add_scalar(name, value, record["gen"])
                elif isinstance(value, list):  # survivors of a layer: min, mean, max, and the best mask's
                    writer.add_scalar(name, value[1], record["gen"])
