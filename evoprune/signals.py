"""Signals that end a run, or ask for a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


@contextmanager
def save_on_signals(save: Callable[[], None]) -> Iterator[None]:
    """Saves on SIGUSR1, and on SIGTERM and Ctrl-C, which end the work by :class:`Terminated` and ``KeyboardInterrupt``.

    Handlers are as before afterwards. Off the main thread, where Python allows none, nothing is handled.

    Args:
        save: Saves what there is; it may be called at any time, also while it is at work.
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
