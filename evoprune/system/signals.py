"""Signals that end a run, or ask for a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
STOPPED = "interrupted"
RESUMES = "interrupted; finished work is on disk, and the same command resumes"


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


def end_at_once(message: str = "") -> None:
    """Lets Ctrl-C end the process from now on, at once, with a message and status 130.

    For the time in which there is nothing to save: while modules are imported, where ``KeyboardInterrupt`` shows a traceback
    or is swallowed, and when the process is ending anyway. Where Ctrl-C is ignored, as in a shell's background, it stays so.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        with contextlib.suppress(OSError):
            os.write(2, f"{line_start()}{message}\n".encode() if message else b"")
        os._exit(INTERRUPTED)

    _on_interrupt(end)


def line_start() -> str:
    """Returns the characters that clear the line of a progress bar and of an echoed ^C; none where stderr is no terminal."""
    return "\r\x1b[J" if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""


def ignore_interrupts() -> None:
    """Lets Ctrl-C do nothing, for the last moments of a process, when Python would have no handler."""
    _on_interrupt(signal.SIG_IGN)


@contextmanager
def nothing_begun() -> Iterator[None]:
    """Lets Ctrl-C end the process at once while options are read and modules imported; see :func:`end_at_once`."""
    before = signal.getsignal(signal.SIGINT)
    end_at_once(STOPPED)
    try:
        yield
    finally:
        _on_interrupt(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises ``KeyboardInterrupt`` at the first Ctrl-C, so that things are saved and closed; the second ends at once.

    So does one that comes after this was left by the first, and one that comes while an object is deleted, where Python shows
    the exception and drops it.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        end_at_once(RESUMES)
        raise KeyboardInterrupt

    def unraisable(unraised: sys.UnraisableHookArgs) -> None:
        if isinstance(unraised.exc_value, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        else:
            hook(unraised)

    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    _on_interrupt(interrupt)
    sys.unraisablehook = unraisable
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        _on_interrupt(before)
        raise
    finally:
        sys.unraisablehook = hook
    _on_interrupt(before)


def _on_interrupt(handler: Callable[[int, FrameType | None], object] | int | None) -> None:
    """Sets the effect of Ctrl-C; not off the main thread, where Python allows no handlers, nor where Ctrl-C is ignored."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def save_on_signals(save: Callable[[], None]) -> Iterator[None]:
    """Saves on SIGUSR1, and on SIGTERM and Ctrl-C, which end the work by :class:`Terminated` and ``KeyboardInterrupt``.

    Handlers are as before afterwards. Off the main thread, where Python allows none, nothing is handled.

    Args:
        save: Saves the work so far; it may be called at any time, also during such a call.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    def save_and_go_on(number: int, frame: FrameType | None) -> None:
        try:
            save()
        except OSError as error:  # raised here, it would fail whatever is being evaluated
            print(f"cannot save: {error}", file=sys.stderr)

    handlers = {signal.SIGTERM: terminate, signal.SIGUSR1: save_and_go_on}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except KeyboardInterrupt:
        save()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C from threads and processes that are started inside, and from the processes that they start."""
    resource_tracker.ensure_running()  # which unblocks Ctrl-C in the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
