"""The terminal: progress and messages take turns, so that none tears another's line.

On a terminal a bar is drawn again and again in its line; a message clears the bars, and they are drawn again below it. Where
standard error is no terminal, as in the log of a job, progress is whole lines, and few.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO

from tqdm import tqdm

# Clears the line and all below it.
CLEAR = "\r\x1b[J"
# In a log: seconds between lines of progress, and those after which there is one although the progress is small.
OFTEN, SELDOM = 10.0, 300.0

_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)


class Bar(Protocol):
    """The progress of a piece of work: the part of tqdm's bars that the package uses."""

    n: float
    total: float | None

    def update(self, n: float | None = 1) -> None:
        """Counts steps that are done."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Sets the text behind the numbers."""


class Lines:
    """Progress as lines of a log: one for each tenth of the work, but none within ten seconds of the last, and one at the end.

    Args:
        total: Number of steps.
        name: The work, in words.
        unit: A step, in words.
        initial: Steps that are done already.
        leave: Print a line at the end in any case; else only if there was one before.
        stream: Where to print.
    """

    def __init__(self, total: float, name: str, unit: str, initial: float, leave: bool, stream: TextIO) -> None:
        self.total: float | None = total
        self.n, self.initial = initial, initial
        self._name, self._unit, self._leave, self._stream = name, unit, leave, stream
        self._postfix = ""
        self._start = self._last = time.monotonic()
        self._printed: float | None = None

    def update(self, n: float | None = 1) -> None:
        """Counts steps that are done, and prints a line if it is time for one."""
        before, self.n = self.n, self.n + (n or 0)
        waited, total = time.monotonic() - self._last, self.total or 1
        is_tenth = int(10 * self.n / total) > int(10 * before / total)
        if self.n < total and ((is_tenth and waited >= OFTEN) or waited >= SELDOM):
            self._print()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Sets the text behind the numbers."""
        self._postfix = s

    def close(self) -> None:
        """Prints the last line."""
        done = self.n > self.initial and self._printed != self.n
        if done and (self._leave or self._printed is not None):
            self._print()

    def _print(self) -> None:
        self._last, self._printed = time.monotonic(), self.n
        numbers = tqdm.format_meter(
            self.n,
            self.total,
            self._last - self._start,
            initial=self.initial,
            unit=self._unit,
            postfix=self._postfix,
            bar_format="{percentage:.0f}% {n_fmt}/{total_fmt}, {elapsed}, {rate_fmt}{postfix}",
        )
        with contextlib.suppress(OSError, ValueError):  # its reader may be gone; the work continues
            print(f"{self._name}: {numbers}", file=self._stream, flush=True)


@contextmanager
def bar(
    total: float, name: str, *, unit: str = "it", initial: float = 0, leave: bool = True, delay: float = 0.0, shown: bool = True
) -> Iterator[Bar]:
    """Shows the progress of work on standard error; meanwhile all that is printed appears above it.

    Args:
        total: Number of steps.
        name: The work, in words.
        unit: A step, in words.
        initial: Steps that are done already.
        leave: Keep the bar when it is done.
        delay: Seconds before it is first shown.
        shown: Show it at all; nothing is shown under :func:`quiet`.
    """
    is_hidden = not shown or not total or _is_quiet.get()
    if not is_hidden and not is_terminal(sys.stderr):
        lines = Lines(total, name, unit, initial, leave, sys.stderr)
        try:
            yield lines
        finally:
            lines.close()
        return
    with contextlib.ExitStack() as stack:
        if not is_hidden:
            stack.enter_context(_above_bars())
        options: dict[str, Any] = {"total": total, "desc": name, "unit": unit, "initial": initial, "leave": leave}
        screen = getattr(sys.stderr, "_wrapped", sys.stderr)
        drawn = tqdm(**options, delay=delay, disable=is_hidden, file=screen, dynamic_ncols=True, smoothing=0)
        yield stack.enter_context(drawn)


def say(text: str) -> None:
    """Prints a line on standard output, above the bars; nothing under :func:`quiet`."""
    if not _is_quiet.get():
        print(text, flush=True)


def note(text: str) -> None:
    """Prints a line on standard error, above the bars; nothing under :func:`quiet`."""
    if not _is_quiet.get():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def quiet(is_quiet: bool = True) -> Iterator[None]:
    """Shows no progress and no notes inside; errors, warnings and the prints of the user's code remain."""
    token = _is_quiet.set(is_quiet or _is_quiet.get())
    try:
        yield
    finally:
        _is_quiet.reset(token)


@contextmanager
def stdout_kept() -> Iterator[TextIO]:
    """Sends all that is printed inside to standard error, by child processes and libraries too.

    Yields:
        Standard output, for whatever is really to be printed there.
    """
    sys.stdout.flush()
    kept = sys.stdout
    with contextlib.ExitStack() as stack:
        if _number(kept) == 1 and _number(sys.stderr) == 2:
            saved = os.dup(1)
            kept = stack.enter_context(os.fdopen(saved, "w", encoding=kept.encoding, errors="backslashreplace"))
            stack.callback(_back, os.dup(1))
            os.dup2(2, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield kept


def _back(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.close(descriptor)


def is_terminal(stream: TextIO | None) -> bool:
    """Tells whether lines on a stream can be drawn again: it is a terminal, and one that can move its cursor."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


def clears_bars() -> None:
    """Lets each line that this process prints clear the bar of the main process, which draws it again; for a worker process.

    Bars of this process have a lock among threads: one among processes would outlast a process that is killed.
    """
    tqdm.set_lock(threading.RLock())
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if is_terminal(stream) and not isinstance(stream, _Whole):
            setattr(sys, name, _Clearing(stream))


class _Whole:
    """A stream that takes text and hands on whole lines; everything else is as of the stream behind it."""

    def __init__(self, stream: TextIO) -> None:
        self._wrapped, self._begun = stream, ""

    def write(self, text: str) -> int:
        """Writes the lines that are complete, and keeps the rest until its end comes."""
        lines, end, self._begun = (self._begun + text).rpartition("\n")
        if end:
            self.put(lines + end)
        return len(text)

    def put(self, lines: str) -> None:
        """Writes whole lines."""
        raise NotImplementedError

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Writes the rest, which has no end of line."""
        rest, self._begun = self._begun, ""
        if rest:
            self._wrapped.write(rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._wrapped == getattr(other, "_wrapped", other))  # by which tqdm knows the terminal's streams

    def __hash__(self) -> int:
        return hash(self._wrapped)


class _Clearing(_Whole):
    """Of a worker process: the lines come after the terminal's line was cleared."""

    def put(self, lines: str) -> None:
        self._wrapped.write(CLEAR + lines)
        self._wrapped.flush()


class _Above(_Whole):
    """Of the process that draws the bars: the lines come above them."""

    def put(self, lines: str) -> None:
        with tqdm.external_write_mode(file=self._wrapped):
            self._wrapped.write(lines)
            self._wrapped.flush()


@contextmanager
def _above_bars() -> Iterator[None]:
    """Lets all that this process prints appear above its bars, as long as the streams are the terminal's."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    own = {name: _Above(stream) for name, stream in before.items() if is_terminal(stream) and not isinstance(stream, _Whole)}
    for name, stream in own.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in own.items():
            stream.finish()
            if getattr(sys, name) is stream:  # the user's code may have put another there
                setattr(sys, name, before[name])


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (io.UnsupportedOperation, AttributeError, ValueError):
        return None
