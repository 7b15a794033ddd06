"""TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from deap import tools

from evoprune.errors import InputError
from evoprune.loggers import values
from evoprune.loggers.place import own_place, require_writable
from evoprune.loggers.protocol import End, Evaluated, Generation, Start
from evoprune.runs.folder import BOARD


class HasLogbook(Protocol):
    """The state of an evolution, or the event of a generation."""

    @property
    def logbook(self) -> tools.Logbook:
        """The logbook so far."""


class TensorBoard:
    """Writes a run for TensorBoard, an optional extra: ``pip install evoprune[tensorboard]``.

    It is a logger of any method (``log="tensorboard"``), and a callback of an evolution, which then writes the statistics of
    each generation alone.

    Args:
        folder: Folder of the event files; None for ``tensorboard`` in the run folder, which a logger can take.

    Raises:
        InputError: TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard is not installed; pip install tensorboard, or leave tensorboard out of the loggers."
            ) from error
        self._make = SummaryWriter
        self._writer: Any = None
        self._begun = False
        self.folder = None if folder is None else Path(folder).absolute()
        if self.folder is not None:
            require_writable(self.folder)

    def on_start(self, start: Start) -> None:
        """Opens the event file, and writes the settings as text."""
        self._writer = self._make(str(self.folder or own_place(start, BOARD, "tensorboard:PATH")))
        self._writer.add_text("settings", f"```json\n{json.dumps(dict(start.settings), indent=2, default=str)}\n```")

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Writes ``evaluation/loss`` and so on, by the number of the evaluation."""
        for name, value in values.of_evaluation(evaluated.evaluation).items():
            self._writer.add_scalar(f"evaluation/{name}", value, evaluated.number)

    def on_generation(self, generation: HasLogbook) -> None:
        """Writes a generation: ``fitness/min``, ``loss/mean``, ``diversity`` and so on."""
        if not isinstance(generation, Generation):
            self._write_state(generation.logbook)
            return
        for name, value in values.of_generation(generation).items():
            self._writer.add_scalar(name, value, generation.gen)
        self._writer.flush()

    def on_end(self, end: End) -> None:
        """Writes the final trainings by epoch, and the result, and closes the event file."""
        if end.result is not None:
            for role, epoch, numbers in values.curves(end.result):
                for name, value in numbers.items():
                    self._writer.add_scalar(f"{role}/{name}", value, epoch)
            for name, value in values.of_result(end.result).items():
                self._writer.add_scalar(f"result/{name}", value, 0)
        self._writer.close()

    def _write_state(self, logbook: tools.Logbook) -> None:
        """Writes the last record of a callback's state, and the first time all records."""
        if self.folder is None:
            raise InputError("TensorBoard is a callback without a folder; expected ep.TensorBoard(folder).")
        # records of an earlier process are written again, and the old ones no longer count
        purge = {} if self._begun else {"purge_step": 0}
        records = range(len(logbook))
        with self._make(str(self.folder), **purge) as writer:
            for i in records if not self._begun else records[-1:]:
                for name, value in values.scalars(logbook, i).items():
                    writer.add_scalar(name, value, logbook[i]["gen"])
        self._begun = True
