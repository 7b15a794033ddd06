"""The guard of a script: errors that a user can correct, and Ctrl-C, end it with one message and a status."""

from __future__ import annotations

import atexit
import signal
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

from evoprune.errors import EvopruneError, RunError
from evoprune.system import signals, streams
from evoprune.system.streams import printable

T = TypeVar("T")
OF_THE_RUN, OF_THE_USER = 1, 2
BROKEN_PIPE = 141  # the status that a shell gives a process whose reader is gone
TERMINATED = 128 + signal.SIGTERM
# The exit statuses of every command.
STATUSES = {
    0: "It did what was wanted.",
    OF_THE_RUN: "The run failed, such as when every mask diverged; or the program has a defect, and shows a traceback.",
    OF_THE_USER: "A value cannot be used, or a file cannot be read or written; the message has the cure.",
    signals.INTERRUPTED: "Interrupted by Ctrl-C; finished work is on disk, and the same command resumes.",
    BROKEN_PIPE: "The program that read the output has ended, as head does.",
    TERMINATED: "Ended by SIGTERM; finished work is on disk, and the same command resumes.",
}


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
        status = TERMINATED if isinstance(interrupt, signals.Terminated) else signals.INTERRUPTED
        _end(signals.RESUMES, status, signals.line_start())
    except (EvopruneError, OSError) as error:
        _end(f"error: {error}", OF_THE_RUN if isinstance(error, RunError) else OF_THE_USER)


def _one_line(message: Warning | str, *place: object, **line: object) -> str:
    """Returns a warning without the place in the code, which means nothing to the user of a script."""
    return f"warning: {_lines(message)}\n"


def _lines(text: object) -> str:
    """Returns text in whose lines nothing moves the cursor or colours a terminal."""
    return "\n".join(map(printable, str(text).split("\n")))


def _end(message: str, status: int, start: str = "") -> None:
    print(start + _lines(message), file=sys.stderr)
    streams.close_broken()
    sys.exit(status)
