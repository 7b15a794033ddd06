"""Standard streams that take whatever is printed."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def open_standard_streams() -> None:
    """Opens those of the standard streams that are closed, so that nothing else gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115 - as long as the process lives
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def prepare() -> None:
    """Lets every text be printed, whatever the encoding of the standard streams: what it lacks becomes a question mark."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def close_broken() -> bool:
    """Tells whether nobody reads standard output or error any more, as of ``| head``; then nothing is written there."""
    broken = False
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            broken = True
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return broken
