"""JSON lines: a line for each event, in a file that other programs follow."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.loggers import values
from evoprune.loggers.place import own_place, require_writable
from evoprune.loggers.protocol import End, Evaluated, Generation, Start
from evoprune.runs import records
from evoprune.runs.folder import LOG_FILE
from evoprune.system.files import append, drop_torn_line


class Jsonl:
    """Appends a JSON object for each event to a file; each session begins with an event ``start``.

    Args:
        path: The file; None for ``log.jsonl`` in the run folder.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path).absolute()
        if self.path is not None:
            if self.path.is_dir() or not self.path.name:
                raise InputError(f"jsonl is to write to {path}, which is a folder; expected the path of a file.")
            require_writable(self.path.parent)

    def on_start(self, start: Start) -> None:
        """Writes method, settings and execution."""
        self._file = self.path or own_place(start, LOG_FILE, "jsonl:PATH")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(self._file)
        names = ("session", "name", "method", "problem_hash", "settings", "execution")
        self._write("start", {name: getattr(start, name) for name in names})

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Writes the evaluation."""
        e = evaluated.evaluation
        facts = {name: getattr(e, name) for name in ("mask", "status", "note", "worker")}
        numbers = dict.fromkeys((*e.terms, "validation_loss", "validation_accuracy")) | values.of_evaluation(e)
        self._write("evaluation", {"number": evaluated.number, "gen": evaluated.gen, **facts, **numbers})

    def on_generation(self, generation: Generation) -> None:
        """Writes the generation's numbers."""
        self._write("generation", {"gen": generation.gen, **values.of_generation(generation)})

    def on_end(self, end: End) -> None:
        """Writes how the session ended, and the result if the run is finished."""
        result = {} if end.result is None else {"result": end.result.summary}
        self._write("end", {"status": end.status, "error": end.error, **result})

    def _write(self, event: str, content: dict[str, Any]) -> None:
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **content}
        append(self._file, (json.dumps(records.as_json(line)) + "\n").encode())
