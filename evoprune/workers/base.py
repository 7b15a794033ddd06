"""The protocol of workers: four methods. Sharing out, giving up and time-outs are written once, in :mod:`.policy`."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import cloudpickle

from evoprune.errors import InputError


@dataclass(frozen=True)
class Returned:
    """A task that returned."""

    value: Any


@dataclass(frozen=True)
class Lost:
    """A task that no worker could finish, such as one whose process was killed."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """A task that raised an exception."""

    traceback: str


Outcome: TypeAlias = Returned | Lost | Broken


@runtime_checkable
class Workers(Protocol):
    """Processes that do tasks. An object with these four methods is taken wherever ``workers`` are given by name.

    A back end may have an attribute ``evaluation_timeout``, the seconds that the evaluation of a mask may take. A task that
    takes longer then ends its process, and the back end reports it as lost.

    Example:
        A back end on Python's threads::

            class Threads:
                def __init__(self, n):
                    self.n, self.pool, self.futures = n, ThreadPoolExecutor(n), set()

                def submit(self, function, *arguments):
                    future = self.pool.submit(attempt, pack(function, arguments))
                    self.futures.add(future)
                    return future

                def wait(self):
                    done = next(as_completed(self.futures))
                    self.futures.remove(done)
                    return done, done.result()

                def count(self):
                    return self.n

                def close(self):
                    self.pool.shutdown()
    """

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Hashable:
        """Starts a task, and returns a ticket for it."""

    def wait(self) -> tuple[Hashable, Outcome]:
        """Waits until one of the tasks is over, and returns its ticket and its outcome."""

    def count(self) -> int:
        """Returns the number of workers."""

    def close(self) -> object:
        """Ends the workers, or leaves them."""


def pack(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Returns a task as bytes, for :func:`attempt`; code of a script travels by value.

    Raises:
        InputError: The arguments cannot be pickled.
    """
    try:
        content: bytes = cloudpickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"a task cannot be sent to workers: {error}. Expected functions and objects that hold no locks, files or "
            f"connections."
        ) from error
    return content


def attempt(task: bytes) -> Outcome:
    """Does a task in a worker, and returns its outcome; it raises nothing, so that no traceback is lost on the way back."""
    try:
        function, arguments = pickle.loads(task)  # noqa: S301 - from the run's own main process
        return Returned(function(*arguments))
    except SystemExit as end:
        return Lost(f"its evaluation ended the process: SystemExit({end.code})")
    except Exception:  # noqa: BLE001 - returned to the main process, which raises it
        return Broken(traceback.format_exc())
