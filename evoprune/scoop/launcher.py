"""The launcher: ``python -m evoprune.scoop -n N script.py ...``.

It starts the script and N workers, is their broker, and starts another worker for each that ends. It ends with the exit
status of the script, and leaves nothing alive. It starts workers on other hosts by ssh.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import IO

import zmq

from evoprune.errors import EvopruneError, InputError
from evoprune.scoop.broker import Broker, Keys
from evoprune.scoop.options import Options, is_local, parse
from evoprune.scoop.process import Orders
from evoprune.system import signals, streams
from evoprune.system.importing import MISSING_GUARD, NO_MAIN_GUARD

SCOOP = "0.7.2.0"
# Seconds.
TICK, TO_CONNECT, TO_END, BETWEEN_PINGS, BETWEEN_STARTS, MOST_BETWEEN_STARTS = 0.1, 120.0, 2.0, 5.0, 1.0, 60.0
# If all workers have ended so many times in a row before they were ready, the run is ended.
MOST_STARTS = 3
# A task that takes longer than so many times the median, and than so many seconds, is named.
STRAGGLER, STRAGGLER_SECONDS = 3.0, 10.0
# Ports on which an ssh tunnel listens on another host; systems give out higher ones.
TUNNEL_PORTS = (20_000, 32_000)
SSH = (
    "-T",
    "-x",
    "-oBatchMode=yes",
    "-oConnectTimeout=10",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=3",
    "-oExitOnForwardFailure=yes",
)
PROCESS = ("-m", "evoprune.scoop.process")  # and a name, which shows in a list of processes
SCRIPT = b"script"  # name of its process
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Worker:
    """A place for a worker, and the process that is there now.

    Attributes:
        host: The host.
        device: Its GPU, which every process there sees alone; empty for no choice.
        name: Name of the process; no two have the same.
        process: The process, or its ssh; None before the first process and between two.
        started: The time at which it was started.
        start_at: The time at which the next is to be started.
        failures: Number of processes in a row that ended before they were ready.
    """

    host: str
    device: str = ""
    name: bytes = b""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float = 0.0
    failures: int = 0


@dataclass
class Launcher:
    """A run of a script with workers."""

    options: Options
    keys: Keys = field(default_factory=Keys.make)

    def __post_init__(self) -> None:
        self.broker = Broker(self.options.listen, self.keys, self.options.attempts)
        devices = self.options.devices or [""] * len(self.options.hosts)
        self.workers = [Worker(*place) for place in zip(self.options.hosts, devices, strict=True)]
        self.script: subprocess.Popen[bytes] | None = None
        self.started, self.ping_at = 0, 0.0
        self.stopped_by: int | None = None
        self.has_no_main_guard = False
        self.done: dict[str, tuple[int, float, float]] = {}

    def run(self) -> int:
        """Runs the script with its workers, and returns its exit status."""
        try:
            with handled(self._on_signal):
                self.script = self._start_script()
                while self.script.poll() is None:
                    self.broker.serve(TICK)
                    self._supervise()
                    if (status := self._reason_to_end()) is not None:
                        return status
            code = self.script.returncode
            if not self.options.quiet and code != signals.INTERRUPTED:
                self._say_what_was_done()
            return code if code >= 0 else 128 - code
        finally:
            self._end()

    def _on_signal(self, number: int, frame: object) -> None:
        """Forwards a signal to the script, which decides about it; a signal before the script runs ends everything."""
        if self.script is not None and SCRIPT in self.broker.peers:
            self.script.send_signal(number)
        elif number != signal.SIGUSR1:
            self.stopped_by = number

    def _reason_to_end(self) -> int | None:
        """Returns the exit status if the script cannot continue; None while it can."""
        if self.stopped_by is not None:
            say(signals.STOPPED)
            return 128 + self.stopped_by
        if self.has_no_main_guard:
            say(MISSING_GUARD)
            return 2
        if all(worker.failures >= MOST_STARTS for worker in self.workers):
            say("no worker can be started, see above; the script is ended")
            return 1
        return None

    def _supervise(self) -> None:
        """Starts workers, removes those that have ended, and ends those that take too long."""
        self.broker.drain()  # the launcher may have been stopped, and messages have arrived meanwhile
        overdue, unreachable = self.broker.overdue(), self._unreachable()
        for worker in self.workers:
            if self._is_ready(worker):
                worker.failures = 0
            if worker.name in overdue:
                self._end_worker(worker, "it took longer than --evaluation-timeout allows", b"late\n")
            elif worker.name in unreachable:
                self._end_worker(worker, "it cannot be reached")
            if worker.process is not None and worker.process.poll() is not None:
                code = worker.process.returncode
                if code == NO_MAIN_GUARD:
                    self.has_no_main_guard = True
                    return
                end([worker.process])  # and the processes that it has started
                self._remove(worker, how_it_ended(code))
            elif worker.process is not None and not self._is_ready(worker) and time.monotonic() > worker.started + TO_CONNECT:
                self._end_worker(worker, f"it was not ready within {TO_CONNECT:g} s")
            if worker.process is None and time.monotonic() >= worker.start_at:
                self._start(worker)
        for title, seconds, median in self.broker.stragglers(STRAGGLER, STRAGGLER_SECONDS):
            say(f"straggler: {title} has been at a task for {seconds:.0f} s; half of the others took less than {median:.1f} s")

    def _unreachable(self) -> list[bytes]:
        if time.monotonic() < self.ping_at:
            return []
        self.ping_at = time.monotonic() + BETWEEN_PINGS
        return self.broker.unreachable()

    def _is_ready(self, worker: Worker) -> bool:
        peer = self.broker.peers.get(worker.name)
        return peer is not None and peer.since is not None

    def _start(self, worker: Worker) -> None:
        worker.started = time.monotonic()
        worker.name = self._new_name(worker.host)
        orders = replace(self._orders(worker.name), device=worker.device)
        if is_local(worker.host):
            worker.process = spawn([sys.executable, *PROCESS, orders.name], orders)
            return
        orders, forward = replace(orders, is_remote=True), list[str]()
        if self.options.tunnel:
            port = random.randrange(*TUNNEL_PORTS)  # one in use ends ssh, and another is tried
            forward = ["-R", f"127.0.0.1:{port}:127.0.0.1:{self.broker.port}"]
            orders = replace(orders, host="127.0.0.1", port=port)
        path = os.environ.get("PYTHONPATH")
        environment = ["env", f"PYTHONPATH={path}"] if path else []
        command = shlex.join(["exec", *environment, self.options.python, *PROCESS, orders.name])
        remote = f"cd {shlex.quote(self.options.folder)} && {command}"
        worker.process = spawn([*self.options.ssh, *SSH, *forward, worker.host, remote], orders)

    def _start_script(self) -> subprocess.Popen[bytes]:
        orders = replace(self._orders(SCRIPT), is_script=True)
        return spawn([sys.executable, *PROCESS, orders.name], orders)

    def _orders(self, name: bytes) -> Orders:
        return Orders(
            name=name.decode(),
            is_script=False,
            is_remote=False,
            host=self.options.listen,
            port=self.broker.port,
            keys=self.keys,
            workers=len(self.workers),
            folder=self.options.folder,
            script=list(self.options.script),
        )

    def _new_name(self, host: str) -> bytes:
        self.started += 1
        return f"{host}/{self.started}".encode()

    def _remove(self, worker: Worker, reason: str, give_up: bool = False) -> None:
        """Hands the task of a worker that has ended to another."""
        self.broker.drain()  # its last messages
        peer = self.broker.peers.get(worker.name)
        title = peer.title if peer is not None else worker.host
        if not self._is_ready(worker):
            worker.failures += 1
        if peer is not None and peer.since is not None:
            self.done[title] = (peer.tasks, peer.busy, time.monotonic() - peer.since)
        self.broker.remove(worker.name, f"{title} ended: {reason}", give_up)
        worker.process, worker.name = None, b""
        pause = min(BETWEEN_STARTS * 2**worker.failures, MOST_BETWEEN_STARTS)
        worker.start_at = max(time.monotonic(), worker.started + pause)
        say(f"worker {title} ended: {reason}; another takes its place")

    def _end_worker(self, worker: Worker, reason: str, last_words: bytes = b"") -> None:
        assert worker.process is not None
        self.broker.dismiss(worker.name)
        end([worker.process], last_words)
        self._remove(worker, reason, give_up=bool(last_words))

    def _say_what_was_done(self) -> None:
        now = time.monotonic()
        for peer in self.broker.peers.values():
            if peer.since is not None:
                self.done[peer.title] = (peer.tasks, peer.busy, now - peer.since)
        rows = [
            f"{title} {tasks} ({min(1.0, busy / max(there, 1e-9)):.0%} busy)"
            for title, (tasks, busy, there) in self.done.items()
        ]
        if any(tasks for tasks, _, _ in self.done.values()):
            say(f"tasks done: {', '.join(rows)}")

    def _end(self) -> None:
        """Ends all processes that are left, which takes a moment; signals do not interrupt it."""
        with handled(lambda number, frame: None):
            end([p for p in [self.script, *(worker.process for worker in self.workers)] if p is not None])
            self.broker.close()


def spawn(command: Sequence[str], orders: Orders) -> subprocess.Popen[bytes]:
    """Starts a process in a separate session, so that Ctrl-C reaches only the launcher, and gives it its orders."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    with contextlib.suppress(BrokenPipeError):  # it has ended, which is noticed later
        lifeline_of(process).write(orders.to_line())
        lifeline_of(process).flush()
    return process


def lifeline_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Returns the pipe whose end ends the process."""
    assert process.stdin is not None
    return process.stdin


def end(processes: Sequence[subprocess.Popen[bytes]], last_words: bytes = b"") -> None:
    """Ends processes with all that they started: first by closing their lifelines, then by force.

    Args:
        processes: The processes.
        last_words: A message to them before that.
    """
    for process in processes:
        with contextlib.suppress(BrokenPipeError):
            lifeline_of(process).write(last_words)
            lifeline_of(process).close()
    deadline = time.monotonic() + TO_END
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handles the signals that concern the script."""
    # signals that were ignored at the start stay ignored, as Ctrl-C is in the background of a shell
    heeded = [number for number in FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def how_it_ended(code: int) -> str:
    """Returns a process's end in words."""
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def say(text: str) -> None:
    """Prints a message on standard error, on a separate line even after a progress bar."""
    with contextlib.suppress(OSError):  # its reader may be gone, as with `2>&1 | head`; the run continues
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{start}evoprune.scoop: {text}", file=sys.stderr, flush=True)


def check_versions() -> None:
    """Raises InputError if SCOOP or ZeroMQ are not of the versions that the patches are made for."""
    if version("scoop") != SCOOP:
        raise InputError(f"SCOOP is {version('scoop')}; the patches are made for {SCOOP}: pip install scoop=={SCOOP}")
    if not zmq.has("curve"):
        raise InputError("this build of pyzmq has no CURVE encryption; install its wheel: pip install --force-reinstall pyzmq")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script of a command line, and ends the process with its exit status; 2 for an error of the user."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if the parent process ignores it, exit statuses are lost
    streams.prepare()
    try:
        check_versions()
        options = parse(arguments)
        try:
            launcher = Launcher(options)
        except zmq.ZMQError as error:
            raise InputError(
                f"cannot listen on {options.listen}: {error}; --listen takes an address of this machine."
            ) from error
    except EvopruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(launcher.run())
