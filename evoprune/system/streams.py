"""Standard streams that take whatever is printed."""

from __future__ import annotations

import io
import os
import select
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


def printable(text: object) -> str:
    """Returns text with its control characters escaped, so that no name from a file moves the cursor or colours a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def prepare() -> None:
    """Lets every text be printed, whatever the encoding of the standard streams; it prints question marks for others."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def close_broken() -> bool:
    """Tells whether nobody reads standard output or error any more, as with ``| head``; the remaining output is dropped."""
    broken = False
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if _nobody_reads(number):
            broken = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        stream.flush()
    return broken


def _nobody_reads(number: int) -> bool:
    poll = select.poll()
    try:
        poll.register(number, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except OSError:
        return False
