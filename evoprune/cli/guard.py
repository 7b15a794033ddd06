"""The guard of a script: errors that a user can correct, and Ctrl-C, end it with one message and a status."""

from __future__ import annotations

import atexit
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

from evoprune.errors import EvopruneError, RunError
from evoprune.system import signals, streams

T = TypeVar("T")
BROKEN_PIPE = 141  # the status that a shell gives a process whose reader is gone


def guard(script: Callable[[], None]) -> None:
    """Runs a script; an error that a user can correct, and Ctrl-C, end the process with one message and a status."""
    streams.prepare()
    warnings.formatwarning = _one_line
    atexit.register(signals.ignore_interrupts)
    try:
        try:
            with signals.interruptible():
                script()
        finally:
            if streams.close_broken():
                sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt as interrupt:
        signals.end_at_once()
        _end(signals.RESUMES, 143 if isinstance(interrupt, signals.Terminated) else signals.INTERRUPTED)
    except (EvopruneError, OSError) as error:
        _end(f"error: {error}", 1 if isinstance(error, RunError) else 2)


def _one_line(message: Warning | str, *place: object, **line: object) -> str:
    """Returns a warning without the place in the code, which means nothing to the user of a script."""
    return f"warning: {message}\n"


def _end(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    streams.close_broken()
    sys.exit(status)
