"""Dask's clusters: one that is started on this machine, or one that runs already."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster, Nanny, Security, Worker
from distributed.client import FutureCancelledError
from distributed.core import Status
from distributed.deploy.spec import close_clusters
from distributed.utils import LoopRunner

from evoprune.errors import InputError
from evoprune.system import terminal
from evoprune.system.devices import VISIBLE
from evoprune.system.importing import require_importable_script
from evoprune.system.libraries import ONE_THREAD
from evoprune.system.signals import without_interrupts

LOCAL = "dask:"
SCHEMES = ("tcp://", "tls://")
# Workers of a local cluster that may die at a task before it is lost.
ATTEMPTS = 3
# Seconds to wait for workers at first; later a message says so often that there are none.
LONELY = 60.0
# Seconds in which a scheduler has to answer.
PATIENCE = 10.0
# Dask warns of a task larger than this, such as one that brings a problem with its data.
LARGE, SIZE = "distributed.admin.large-graph-warning-threshold", "100 GB"
LOCAL_CONFIG = {
    LARGE: SIZE,
    # without Dask's MALLOC_TRIM_THRESHOLD_, under which training takes twice as long
    "distributed.nanny.pre-spawn-environ": dict(ONE_THREAD),
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # a task waits with the scheduler, not beside an idle worker
    "distributed.deploy.lost-worker-timeout": "1 day",  # a cluster gives up a worker that takes longer to be restarted
    "distributed.worker.profile.enabled": False,  # which interrupts training a hundred times a second
    "distributed.worker.preload": [__name__],  # see dask_setup
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


def start_cluster(where: str, resources: contextlib.ExitStack, devices: Sequence[Mapping[str, str]] = ()) -> Client:
    """Starts a local cluster.

    Args:
        where: ``dask:N``.
        resources: Closed, it ends the cluster.
        devices: For each process the environment variable by which it sees one GPU alone; none if all see the same.

    Returns:
        Its client.

    Raises:
        InputError: It cannot be started.
    """
    require_importable_script()
    resources.enter_context(dask.config.set(LOCAL_CONFIG))  # some of it is read later
    runner = LoopRunner()
    with without_interrupts():  # in the thread that starts workers, and so in them
        runner.start()
    resources.callback(runner.stop)
    try:
        cluster = LocalCluster(
            n_workers=int(where.removeprefix(LOCAL)),
            loop=runner.loop,
            threads_per_worker=1,
            **({"worker_class": OneDevice, "devices": list(devices), "turn": asyncio.Lock()} if devices else {}),
            host="127.0.0.1",
            # any free port, on which nothing is served; else it is 8787, which may be in use
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            memory_limit=0,  # Dask pauses workers that pass theirs; these keep nothing that could be spilled
            security=True,  # its own keys; without them anybody on this machine could run code
            silence_logs=logging.CRITICAL,
        )
    except KeyboardInterrupt:
        # of a cluster that is half started it fails, and so do its tasks, with tracebacks; the processes end with this one
        atexit.unregister(close_clusters)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except RuntimeError as error:
        raise InputError(
            f"{where} cannot be started: {error} Expected a script whose work is under if __name__ == '__main__':, "
            f"because every worker imports it."
        ) from None
    client = Client(resources.enter_context(cluster), set_as_default=False)
    resources.enter_context(client)
    return client


def join_cluster(where: str, limited: bool, resources: contextlib.ExitStack) -> Client:
    """Joins a cluster that runs.

    Args:
        where: The address of its scheduler.
        limited: Evaluations are limited in time.
        resources: Closed, it leaves the cluster.

    Returns:
        The client.

    Raises:
        InputError: The scheduler cannot be reached, it has no workers, or they have several threads or, with a
            time-out, no nannies that start them again.
    """
    resources.enter_context(dask.config.set({LARGE: SIZE}))
    try:
        client = Client(where, set_as_default=False, timeout=PATIENCE)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"no scheduler answers at {where}: {error}; start one, or give another --workers.") from error
    resources.enter_context(client)
    if not workers_of(client):
        terminal.note(f"waiting for workers at {where}")
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=LONELY)
    workers = workers_of(client).values()
    threads = sorted({worker["nthreads"] for worker in workers})
    if threads != [1]:
        found = f"workers have {threads} threads" if threads else f"no workers came within {LONELY:.0f} s"
        raise InputError(f"at {where} {found}; expected workers of one thread: dask worker {where} --nthreads 1")
    if limited and not all(worker["nanny"] for worker in workers):
        raise InputError(
            f"evaluations are limited by evaluation_timeout, and a worker at {where} has no nanny; expected workers "
            f"without --no-nanny: the one that takes longer is ended, and its nanny starts another."
        )
    return client


def check_place(where: str) -> None:
    """Checks the name of a cluster.

    Raises:
        InputError: It is neither ``dask:N`` nor the address of a scheduler, or there are no certificates for ``tls://``.
    """
    if where.startswith(LOCAL):
        count = where.removeprefix(LOCAL)
        if not count.isdecimal() or int(count) < 1:
            raise InputError(f"workers are {where!r}; expected dask:N, with N processes, such as dask:2.")
        return
    try:
        parts = urlsplit(where)
        is_whole = f"{parts.scheme}://" in SCHEMES and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # of a port that is no number
        is_whole = False
    if not is_whole:
        raise InputError(f"workers are {where!r}; expected dask:N, or a scheduler's address such as tcp://host:8786.")
    if where.startswith("tls://") and Security().get_connection_args("client")["ssl_context"] is None:
        raise InputError(
            f"workers are {where!r}, but there are no certificates; expected them in Dask's configuration, such as "
            f"DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..._CLIENT__CERT and ..._CLIENT__KEY in the environment."
        )


class OneDevice(Nanny):
    """A nanny whose process sees one GPU alone from its start, since the script that it imports may start CUDA.

    Args:
        devices: For each process of the cluster, by its number, the environment variable.
        turn: A lock of the cluster. Nannies set the environment of this process before they start theirs, all at a time.
    """

    def __init__(self, *arguments: Any, devices: Sequence[Mapping[str, str]], turn: asyncio.Lock, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.turn = turn
        for environment in (self.pre_spawn_env, self.env):
            environment.update(devices[int(str(self.name))])

    async def instantiate(self) -> Status:
        """Starts the process, in turn with the others."""
        async with self.turn:
            before = os.environ.get(VISIBLE)
            try:
                return await super().instantiate()
            finally:
                del os.environ[VISIBLE]
                if before is not None:
                    os.environ[VISIBLE] = before


def dask_setup(worker: Worker) -> None:
    """Lets a worker of a local cluster ignore Ctrl-C, which the main process handles. Called by Dask as the worker starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminal.clears_bars()


@contextlib.contextmanager
def watching(client: Client, where: str) -> Iterator[None]:
    """Says every minute that there are no workers, as long as there are none."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LONELY):
            with contextlib.suppress(OSError, FutureCancelledError):  # a lost scheduler is found by whoever waits for tasks
                if not workers_of(client):
                    terminal.note(f"no workers at {where}; waiting for some")

    threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """Returns the scheduler's records of the workers, by address."""
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers
