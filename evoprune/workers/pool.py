"""Processes of this machine as workers: the plainest back end, and one to copy for another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any

from evoprune.errors import InputError, WorkersError
from evoprune.system.importing import require_importable_script
from evoprune.system.signals import without_interrupts
from evoprune.workers.base import Lost, Outcome, attempt, pack

# Processes in a row that may end before they are ready for a first task.
MOST_FAILURES = 3
# Read as a library is imported: processes with as many threads as cores each slow one another down.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass
class _Process:
    """A process; ``task`` is the number of the task that it is at, and -1 before it is ready."""

    process: multiprocessing.process.BaseProcess
    task: int | None = -1


class Pool:
    """Spawned processes, each of which does one task at a time; one that ends is replaced, and its task is lost.

    Args:
        name: ``pool:N``, with N processes.
        evaluation_timeout: Seconds that the evaluation of a mask may take; None for no limit.

    Raises:
        InputError: The name is another one.
    """

    def __init__(self, name: str, evaluation_timeout: float | None = None) -> None:
        number = name.removeprefix("pool:")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"workers are {name!r}; expected pool:N, with N processes, such as pool:2.")
        self.name, self.size, self.evaluation_timeout = name, int(number), evaluation_timeout
        self._processes: dict[Connection, _Process] = {}
        self._tasks: deque[tuple[int, bytes]] = deque()
        self._tickets, self._failures = count(), 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Queues a task for the next process that is free; processes are started when they are first needed."""
        ticket = next(self._tickets)
        self._tasks.append((ticket, pack(function, arguments)))
        self._give_out()
        return ticket

    def wait(self) -> tuple[int, Outcome]:
        """Waits for one of the tasks; it is lost where its process ended.

        Raises:
            WorkersError: Processes end as they start.
        """
        while True:
            self._give_out()
            connection = wait(list(self._processes))[0]
            assert isinstance(connection, Connection)
            worker = self._processes[connection]
            ticket, outcome = worker.task, None
            try:
                outcome = pickle.loads(connection.recv_bytes())  # noqa: S301 - from a process of this pool
                worker.task, self._failures = None, 0
            except (EOFError, OSError):
                outcome = Lost(self._remove(connection))
            if ticket is not None and ticket >= 0:
                return ticket, outcome
            if ticket == -1 and isinstance(outcome, Lost):
                self._failures += 1
                if self._failures == MOST_FAILURES:
                    raise WorkersError(f"no process of {self.name} can be started; {outcome.reason}")

    def count(self) -> int:
        """Returns the number of processes."""
        return self.size

    def close(self) -> None:
        """Ends the processes; when they are next needed, others are started."""
        self._tasks.clear()
        for connection in list(self._processes):
            self._processes[connection].process.kill()
            self._remove(connection)

    def _give_out(self) -> None:
        while len(self._processes) < self.size:
            self._start()
        for connection, worker in self._processes.items():
            if worker.task is None and self._tasks:
                with contextlib.suppress(OSError):  # it has just ended, which wait() sees
                    connection.send_bytes(self._tasks[0][1])
                    worker.task = self._tasks.popleft()[0]

    def _start(self) -> None:
        require_importable_script()
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs,), daemon=True)
        with without_interrupts(), _environment(ONE_THREAD):  # Ctrl-C is for the main process
            process.start()
        theirs.close()
        self._processes[ours] = _Process(process)

    def _remove(self, connection: Connection) -> str:
        """Removes a process that ended; returns how it ended."""
        process = self._processes.pop(connection).process
        connection.close()
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"the process {process.pid} at it {how}"


def _work(connection: Connection) -> None:
    """Does tasks in a process of the pool until the pool is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send_bytes(pickle.dumps(None))  # ready
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send_bytes(pickle.dumps(attempt(connection.recv_bytes())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = os.environ.copy()
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in changes if name in before})
