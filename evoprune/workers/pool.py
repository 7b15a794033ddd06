"""Processes of this machine as workers: the plainest back end, and one to copy for another."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from evoprune.errors import InputError, WorkersError
from evoprune.system import terminal
from evoprune.system.devices import check_devices, sees
from evoprune.system.importing import require_importable_script
from evoprune.system.libraries import children_use_one_thread
from evoprune.system.signals import without_interrupts
from evoprune.workers.base import Lost, Outcome, attempt, pack


class Pool:
    """Spawned processes, each of which does one task at a time; one that ends is replaced, and its task is lost.

    Args:
        name: ``pool:N``, with N processes, which are started when they are first needed.
        evaluation_timeout: Seconds that the evaluation of a mask may take; None for no limit.
        devices: GPUs, such as cuda:0, one for each process, which sees it alone; none if all see the same.

    Raises:
        InputError: The name is not such a name, or there are fewer devices than processes.
    """

    def __init__(self, name: str, evaluation_timeout: float | None = None, devices: Sequence[str] = ()) -> None:
        number = name.removeprefix("pool:")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"workers are {name!r}; expected pool:N, with N processes, such as pool:2.")
        self.name, self.size, self.evaluation_timeout = name, int(number), evaluation_timeout
        check_devices(devices, self.size)
        self._devices = [sees(device) for device in devices]  # of processes that are still to be started
        self._tickets = count()
        self._tasks: deque[tuple[int, bytes]] = deque()
        self._free: list[_Process] = []
        self._busy: dict[Future[Outcome], tuple[int, _Process]] = {}

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Starts a task, or queues it for the next process that is free."""
        ticket = next(self._tickets)
        self._tasks.append((ticket, pack(function, arguments)))
        self._give_out()
        return ticket

    def wait(self) -> tuple[int, Outcome]:
        """Waits for one of the tasks; it is lost if its process ended.

        Raises:
            WorkersError: Processes end as they start.
        """
        self._give_out()
        done = wait(self._busy, return_when=FIRST_COMPLETED).done.pop()
        ticket, process = self._busy[done]
        error = done.exception()
        if error is None:
            self._free.append(process)
            del self._busy[done]
            return ticket, done.result()
        self._end(process)
        del self._busy[done]
        if process.ready.exception() is not None:
            raise WorkersError(f"a process of {self.name} ended as it started; its message is above.")
        return ticket, Lost(f"the process that evaluated it ended: {error}")

    def count(self) -> int:
        """Returns the number of processes."""
        return self.size

    def close(self) -> None:
        """Ends the processes; when they are next needed, others are started."""
        for process in {*self._free, *(process for _, process in self._busy.values())}:
            self._end(process)
        for content in (self._tasks, self._free, self._busy):
            content.clear()

    def _give_out(self) -> None:
        # a process is in one of the two places at any moment, so that close finds it whenever Ctrl-C comes
        while self._tasks and len(self._busy) < self.size:
            if not self._free:
                self._free.append(_Process(self._devices.pop(0) if self._devices else {}))
            process = self._free[-1]
            try:
                process.start()
                future = process.executor.submit(attempt, self._tasks[0][1])
            except BrokenExecutor:  # it was killed while it was idle
                self._end(process)
                self._free.pop()
            else:
                self._busy[future] = self._tasks[0][0], process
                self._free.pop()
                self._tasks.popleft()

    def _end(self, process: _Process) -> None:
        process.end()
        if process.device:
            self._devices.append(process.device)  # for the one that takes its place


class _Process:
    """A process by itself, so that its end breaks the task of no other; ``ready`` is done when it has started.

    Args:
        device: The environment variable by which it sees one GPU; empty for none.
    """

    def __init__(self, device: Mapping[str, str]) -> None:
        require_importable_script()
        self.device = dict(device)
        self.executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin)
        self.process: BaseProcess | None = None

    def start(self) -> None:
        """Starts the process if it has not been started."""
        if self.process is None:
            before = multiprocessing.active_children()
            with without_interrupts(), children_use_one_thread(self.device):  # Ctrl-C is for the main process
                self.ready = self.executor.submit(os.getpid)
            self.process = next(child for child in multiprocessing.active_children() if child not in before)

    def end(self) -> None:
        """Ends the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
        self.executor.shutdown()


def _begin() -> None:
    """Lets this process end when its parent does, however that ends, and print without tearing the parent's progress."""
    terminal.clears_bars()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: connection.wait([parent.sentinel]) and os._exit(1), daemon=True).start()
