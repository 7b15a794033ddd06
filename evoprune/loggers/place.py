"""The places that loggers write to."""

from __future__ import annotations

import os
from pathlib import Path

from evoprune.errors import InputError
from evoprune.loggers.protocol import Start


def own_place(start: Start, name: str, otherwise: str) -> Path:
    """Returns a path in the run folder.

    Args:
        start: The run.
        name: The path's name.
        otherwise: The logger's name with a place that the user gives, for the message.

    Raises:
        InputError: There is no run folder.
    """
    if start.folder is None:
        logger = otherwise.partition(":")[0]
        raise InputError(f"{logger} logs into the run folder, but there is none; expected out=, or log={otherwise!r}.")
    return start.folder / name


def require_writable(folder: Path) -> None:
    """Checks that a folder can be written, or made.

    Raises:
        InputError: It cannot.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write to {folder}: {there} is no folder that can be written; choose another.")
