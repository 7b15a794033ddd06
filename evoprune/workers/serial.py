"""Work in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from evoprune.workers.base import Returned


class Serial:
    """This process as its only worker; a task is done when it is waited for, and may raise."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._tickets = count()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Keeps a task for :meth:`wait`."""
        ticket = next(self._tickets)
        self._tasks.append((ticket, function, arguments))
        return ticket

    def wait(self) -> tuple[int, Returned]:
        """Does the oldest task."""
        ticket, function, arguments = self._tasks.popleft()
        return ticket, Returned(function(*arguments))

    def count(self) -> int:
        """Returns 1."""
        return 1

    def close(self) -> None:
        """Drops the tasks that nobody waited for."""
        self._tasks.clear()
