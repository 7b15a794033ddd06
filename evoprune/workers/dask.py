"""Evaluation on Dask's workers: a local cluster, or one that runs already, on whatever machines."""

from __future__ import annotations

import atexit
import contextlib
import logging
import pickle
import signal
import sys
import threading
import traceback
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import dask
import numpy as np
from distributed import Client, LocalCluster, Security, Worker, WorkerPlugin, as_completed
from distributed.client import FutureCancelledError
from distributed.deploy.spec import close_clusters
from distributed.scheduler import KilledWorker
from distributed.utils import LoopRunner
from tqdm import tqdm

from evoprune.errors import InputError, LostTaskError, WorkersError
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation, failed, worker_name
from evoprune.evaluation.evaluator import Evaluator
from evoprune.evaluation.job import check_identity, check_versions
from evoprune.evaluation.terms import Term, only_terms, registered_terms
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.problem.usercode import remember_texts, versions
from evoprune.system.importing import MISSING_GUARD, is_unguarded
from evoprune.training.threads import torch_threads
from evoprune.workers.chunks import share_out
from evoprune.workers.wire import ended, evaluate_packed, evaluations_of

LOCAL = "dask:"
SCHEMES = ("tcp://", "tls://")
# Workers of a local cluster that may die at a task before it is given up.
ATTEMPTS = 3
# Seconds that workers are waited for at first; later it is said, and said again, that there are none.
LONELY = 60.0
LOCAL_CONFIG = {
    # without Dask's MALLOC_TRIM_THRESHOLD_, under which training takes twice as long
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # a task waits with the scheduler, not beside an idle worker
    "distributed.deploy.lost-worker-timeout": "1 day",  # a cluster gives up a worker that takes longer to be restarted
    "distributed.worker.profile.enabled": False,  # which interrupts training a hundred times a second
    "distributed.worker.preload": [__name__],  # see dask_setup
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


class DaskWorkers:
    """Evaluates chunks on Dask's workers. The cluster is started, or joined, when it is first needed.

    Args:
        where: ``dask:N`` for a cluster of N processes on this machine, ended with this object, or the address of a scheduler,
            ``tcp://host:port`` or, with the certificates of Dask's configuration (``distributed.comm.tls``), ``tls://host:port``.
        evaluation_timeout: Seconds that the evaluation of a mask may take; None for no limit.

    Raises:
        InputError: ``where`` is neither, or there are no certificates.
    """

    def __init__(self, where: str, evaluation_timeout: float | None = None) -> None:
        check_place(where)
        self.where, self.evaluation_timeout = where, evaluation_timeout
        self._client: Client | None = None
        self._given: ProblemPlugin | None = None
        self._resources = contextlib.ExitStack()
        weakref.finalize(self, self._resources.close)

    @property
    def client(self) -> Client:
        """Dask's client.

        Raises:
            InputError: The cluster cannot be started, the scheduler cannot be reached, it has no workers, or they have several
                threads or, where evaluations are limited, nobody who starts them again.
        """
        if self._client is None:
            self._client = self._start() if self.where.startswith(LOCAL) else self._join()
        return self._client

    def close(self) -> None:
        """Leaves the cluster, and ends it if it is ours; when it is next needed, it is started or joined again."""
        self._forget()
        self._client = None
        self._resources.close()

    def __call__(
        self, evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None
    ) -> Iterator[list[Evaluation]]:
        """Evaluates chunks; see :func:`evoprune.workers.scoop.scoop`.

        A mask is given up only after it has been evaluated alone, and, without slots, with nothing else under way: Dask also
        suspects the tasks that wait at a worker when it dies.

        Raises:
            InputError: The cluster cannot serve, see :attr:`client`, or the problem cannot be sent.
            WorkersError: A worker could not make the problem, or the scheduler is lost.
        """
        name, brief = self._give(evaluator), asdict(evaluator.brief)
        if slots is None:
            chunks = share_out(evaluator, list(chunks), self.count())
        taken: dict[int, Chunk] = {}

        def task(masks: Chunk) -> tuple[Any, ...]:
            return name, brief, [np.packbits(mask.bits).tobytes() for mask in masks], self.evaluation_timeout

        def tasks() -> Iterator[tuple[Any, ...]]:
            for i, chunk in enumerate(chunks):
                taken[i] = chunk
                yield task(chunk)

        def alone(mask: Mask) -> Evaluation:
            try:
                return evaluations_of(*self._alone(work_here, task([mask])), [mask])[0]
            except LostTaskError as error:
                return failed(mask, evaluator.brief.seed, str(error))

        suspects: list[Mask] = []
        for i, outcome, content in self._run_once(work_here, tasks(), slots):
            chunk = taken.pop(i)
            try:
                yield evaluations_of(outcome, content, chunk)
            except LostTaskError:
                if slots is None:
                    suspects += chunk
                else:  # what comes next depends on it
                    yield [alone(mask) for mask in chunk]
        for mask in suspects:
            yield [alone(mask)]

    def run(
        self, function: Callable[..., tuple[str, Any]], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, str, Any]]:
        """Runs tasks; see :func:`evoprune.workers.scoop.run_on_scoop`.

        A task that is given up was done again before, with nothing else under way.

        Raises:
            InputError: The cluster cannot serve; see :attr:`client`.
            WorkersError: The scheduler is lost, or a worker cannot run tasks.
        """
        suspects = []
        for i, outcome, content in self._run_once(function, arguments):
            if outcome == "lost":
                suspects.append(i)
            else:
                yield i, outcome, content
        for i in suspects:
            yield i, *self._alone(function, arguments[i])

    def count(self) -> int:
        """Returns the number of workers; 1 where all are just being restarted."""
        with self._scheduler():
            return max(1, len(workers_of(self.client)))

    def _give(self, evaluator: Evaluator) -> str:
        """Returns the name under which every worker has the problem and the user's terms, which it is sent once."""
        if self._given is None or not self._given.is_of(evaluator):
            plugin = ProblemPlugin(evaluator)
            client = self.client
            self._forget()
            with self._scheduler():
                try:
                    client.register_plugin(plugin)
                except (ImportError, AttributeError) as error:
                    raise WorkersError(f"workers at {self.where} lack evoprune, or have another version: {error}") from error
            self._given = plugin
        return self._given.name

    def _forget(self) -> None:
        """Has workers drop the problem that they hold."""
        if self._given is not None and self._client is not None and self._client.status == "running":
            with contextlib.suppress(OSError, FutureCancelledError):  # lost, and the problem with it
                self._client.unregister_worker_plugin(self._given.name)
        self._given = None

    def _alone(self, function: Callable[..., tuple[str, Any]], arguments: tuple[Any, ...]) -> tuple[str, Any]:
        ((_, outcome, content),) = self._run_once(function, [arguments])
        return outcome, content

    def _run_once(
        self, function: Callable[..., tuple[str, Any]], arguments: Iterable[tuple[Any, ...]], slots: int | None = None
    ) -> Iterator[tuple[int, str, Any]]:
        source = enumerate(arguments)
        waiting: dict[Any, int] = {}

        def submit(count: int | None) -> list[Any]:
            with self._scheduler():
                new = {self.client.submit(function, *each, pure=False): i for i, each in islice(source, count)}
            waiting.update(new)
            return list(new)

        finished = as_completed(submit(slots), loop=self.client.loop)
        with watching(self.client, self.where):
            for future in finished:
                i = waiting.pop(future)
                with self._scheduler():
                    error = future.exception()
                    outcome, content = future.result() if error is None else ("", None)
                if isinstance(error, KilledWorker):
                    late = "" if self.evaluation_timeout is None else f"; evaluation_timeout is {self.evaluation_timeout:g} s"
                    outcome, content = "lost", f"workers died at it, the last on {error.last_worker.address}{late}"
                elif error is not None:  # tasks raise nothing themselves
                    raise WorkersError(
                        f"a worker at {self.where} cannot run a task: {type(error).__name__}: {error}; expected evoprune, "
                        f"and the modules of the script, on every worker."
                    )
                future.release()
                yield i, outcome, content
                finished.update(submit(1))

    @contextlib.contextmanager
    def _scheduler(self) -> Iterator[None]:
        """Turns what Dask raises for a lost scheduler into an error of the run."""
        try:
            yield
        except (OSError, FutureCancelledError) as error:
            address = self.where if self._client is None else self._client.scheduler_info()["address"]
            raise WorkersError(
                f"the scheduler at {address} is lost ({type(error).__name__}); what was evaluated is on disk, and the same "
                f"command resumes once there is a scheduler."
            ) from error

    def _start(self) -> Client:
        if is_unguarded():
            sys.exit(f"error: {MISSING_GUARD}")
        self._resources.enter_context(dask.config.set(LOCAL_CONFIG))  # some of it is read later
        runner = LoopRunner()
        resource_tracker.ensure_running()  # which unblocks Ctrl-C in the thread that starts it
        with without_interrupts():  # in the thread that starts workers, and so in them: Ctrl-C is the main process's
            runner.start()
        self._resources.callback(runner.stop)
        try:
            cluster = LocalCluster(
                n_workers=int(self.where.removeprefix(LOCAL)),
                loop=runner.loop,
                threads_per_worker=1,
                host="127.0.0.1",
                # any free port, on which nothing is served; else it is 8787, which may be in use
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                memory_limit=0,  # Dask pauses workers that pass theirs; these keep nothing that could be spilled
                security=True,  # keys of its own: without, whoever is on this machine could run code
                silence_logs=logging.CRITICAL,
            )
        except KeyboardInterrupt:
            # of a cluster that is half started it fails, and so do its tasks, with tracebacks; the processes end with this one
            atexit.unregister(close_clusters)
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise
        except RuntimeError as error:
            raise InputError(
                f"{self.where} cannot be started: {error} Expected a script whose work is under if __name__ == '__main__':, "
                f"because every worker imports it."
            ) from None
        client = Client(self._resources.enter_context(cluster), set_as_default=False)
        self._resources.enter_context(client)
        return client

    def _join(self) -> Client:
        try:
            client = Client(self.where, set_as_default=False, timeout="10s")
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"no scheduler answers at {self.where}: {error}; start one, or give another --workers.") from error
        self._resources.enter_context(client)
        if not workers_of(client):
            tqdm.write(f"waiting for workers at {self.where}", file=sys.stderr)
            with contextlib.suppress(TimeoutError):
                client.wait_for_workers(1, timeout=LONELY)
        workers = workers_of(client).values()
        threads = sorted({worker["nthreads"] for worker in workers})
        if threads != [1]:
            found = f"workers have {threads} threads" if threads else f"no workers came within {LONELY:.0f} s"
            raise InputError(f"at {self.where} {found}; expected workers of one thread: dask worker {self.where} --nthreads 1")
        if self.evaluation_timeout is not None and not all(worker["nanny"] for worker in workers):
            raise InputError(
                f"evaluation_timeout is {self.evaluation_timeout}, and a worker at {self.where} has no nanny; expected workers "
                f"without --no-nanny: the one that takes longer is ended, and its nanny starts another."
            )
        return client


def check_place(where: str) -> None:
    """Checks what says where workers are.

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


class ProblemPlugin(WorkerPlugin):
    """Has every worker hold a problem and the user's fitness terms, those included that come later.

    They are of one run's own, whatever else a standing cluster does or did: its script may have been edited since.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.name = f"evoprune-{uuid.uuid4().hex}"
        self.versions, self.identified = versions(), evaluator.identify()
        self.texts = evaluator.texts
        try:
            # by value where it is the script's own, which workers of a running cluster do not import
            self.content = cloudpickle.dumps((evaluator.problem, registered_terms()))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"the problem, or a fitness of your own, cannot be sent to workers: {error}. Expected modules and functions "
                f"that hold no locks, files or connections."
            ) from error
        self._of = evaluator.problem, registered_terms()
        self._made: tuple[Problem, dict[str, Term]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_of": None}

    def is_of(self, evaluator: Evaluator) -> bool:
        """Tells whether it is what an evaluator's masks are evaluated with."""
        problem, terms = self._of
        same = problem is evaluator.problem and terms == registered_terms()
        return same and self.identified == evaluator.identify()  # a global may have changed

    def setup(self, worker: Worker) -> None:
        """Holds it in a worker; it is made when it is first needed, where an error reaches the origin."""
        held[self.name] = self

    def teardown(self, worker: Worker) -> None:
        """Drops it."""
        held.pop(self.name, None)

    def make(self) -> tuple[Problem, dict[str, Term]]:
        """Returns the problem and the terms.

        Raises:
            InputError: The problem is another one here.
        """
        if self._made is None:
            check_versions(self.versions)
            remember_texts(self.texts)
            problem, terms = pickle.loads(self.content)  # noqa: S301 - from the run's own main process
            check_identity(self.identified, problem, terms)
            self._made, self.content = (problem, terms), b""
        return self._made


# In a worker: what it was given, by name. Tasks are plain functions, so there is no other place that outlives one.
held: dict[str, ProblemPlugin] = {}


def work_here(name: str, brief: dict[str, Any], packed: list[bytes], evaluation_timeout: float | None) -> tuple[str, Any]:
    """Evaluates a chunk in one of Dask's workers; see :func:`evoprune.workers.wire.work`."""
    try:
        if name not in held:
            return "error", f"{worker_name()} does not have the problem: it lacks evoprune, or has another version."
        with torch_threads(brief["threads"]):
            problem, terms = held[name].make()
            with only_terms(terms):
                return "ok", evaluate_packed(problem, brief, packed, evaluation_timeout)
    except SystemExit as end:
        return "lost", ended(end)
    except Exception:  # noqa: BLE001 - returned to the origin, which raises it
        return "error", traceback.format_exc()


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C from a thread that is started here, and from the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def dask_setup(worker: Worker) -> None:
    """Has a worker of a local cluster leave Ctrl-C, which reaches it too, to the origin. Called by Dask as it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def watching(client: Client, where: str) -> Iterator[None]:
    """Says every minute that there are no workers, while there are none."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LONELY):
            with contextlib.suppress(OSError, FutureCancelledError):  # a lost scheduler is found by whoever waits for tasks
                if not workers_of(client):
                    tqdm.write(f"no workers at {where}; waiting for some", file=sys.stderr)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """Returns what the scheduler knows of each worker by its address."""
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers
