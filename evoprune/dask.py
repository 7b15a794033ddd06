"""Evaluation on Dask's workers: a local cluster, or one that runs already, on whatever machines."""

from __future__ import annotations

import contextlib
import logging
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import cloudpickle
import dask
import numpy as np
from distributed import Client, LocalCluster, Worker, WorkerPlugin, as_completed
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from evoprune.brief import Chunk, Evaluation, failed
from evoprune.errors import InputError, LostTaskError, RunError
from evoprune.evaluate import Evaluator
from evoprune.fitness import TERMS, register_fitness, registered_terms
from evoprune.parallel import evaluations_of, share_out, work

LOCAL = "dask:"
SCHEMES = ("tcp://", "tls://")
# Workers of a local cluster that may die at a task before it is given up.
ATTEMPTS = 3
LOCAL_CONFIG = {
    # without Dask's MALLOC_TRIM_THRESHOLD_, under which training takes twice as long
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # a task waits with the scheduler, not beside an idle worker
    "distributed.deploy.lost-worker-timeout": "1 day",  # a cluster gives up a worker that takes longer to be restarted
    "distributed.worker.profile.enabled": False,  # which interrupts training a hundred times a second
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
        InputError: ``where`` is neither.
    """

    def __init__(self, where: str, evaluation_timeout: float | None = None) -> None:
        self.where, self.evaluation_timeout = where, evaluation_timeout
        if not where.startswith(SCHEMES):
            count = where.removeprefix(LOCAL)
            if not where.startswith(LOCAL) or not count.isdecimal() or int(count) < 1:
                raise InputError(f"workers are {where!r}; expected dask:N, with N processes, or the address of a scheduler.")
        self._client: Client | None = None
        self._resources = contextlib.ExitStack()
        self.close = weakref.finalize(self, self._resources.close)
        """Leaves the cluster, and ends it if it is ours."""

    @property
    def client(self) -> Client:
        """Dask's client.

        Raises:
            InputError: The scheduler cannot be reached, it has no workers, or they have several threads.
        """
        if self._client is None:
            self._client = self._resources.enter_context(self._connect())
        return self._client

    def __call__(
        self, evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None
    ) -> Iterator[list[Evaluation]]:
        """Evaluates chunks; see :func:`evoprune.parallel.scoop`.

        A mask is given up only after it has been evaluated alone, and, without slots, with nothing else under way: Dask also
        suspects the tasks that wait at a worker when it dies.

        Raises:
            InputError: The cluster cannot serve; see :attr:`client`.
            RunError: A worker could not make the problem, or the scheduler is lost.
        """
        problem_hash, brief = evaluator.problem.hash, asdict(evaluator.brief)

        def task(masks: Chunk) -> tuple[Any, ...]:
            packed = [np.packbits(mask.bits).tobytes() for mask in masks]
            return problem_hash, brief, packed, self.evaluation_timeout

        with self._scheduler():
            self.client.register_plugin(ProblemPlugin(evaluator))
        if slots is None:
            chunks = share_out(evaluator, list(chunks), self.count())
        taken: list[Chunk] = []

        def tasks() -> Iterator[tuple[Any, ...]]:
            for chunk in chunks:
                taken.append(chunk)
                yield task(chunk)

        def alone(mask: Any) -> Evaluation:
            ((_, outcome, content),) = self._run_once(work_here, [task([mask])])
            try:
                return evaluations_of(outcome, content, [mask])[0]
            except LostTaskError as error:
                return failed(mask, evaluator.brief, str(error))

        suspects: list[Any] = []
        for i, outcome, content in self._run_once(work_here, tasks(), slots):
            try:
                yield evaluations_of(outcome, content, taken[i])
            except LostTaskError:
                if slots is None:
                    suspects += taken[i]
                else:  # what comes next depends on it
                    yield [alone(mask) for mask in taken[i]]
        for mask in suspects:
            yield [alone(mask)]

    def run(
        self, function: Callable[..., tuple[str, Any]], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, str, Any]]:
        """Runs tasks; see :func:`evoprune.parallel.run_on_scoop`.

        A task that is given up was done again before, with nothing else under way.

        Raises:
            InputError: The cluster cannot serve; see :attr:`client`.
            RunError: The scheduler is lost.
        """
        suspects = []
        for i, outcome, content in self._run_once(function, arguments):
            if outcome == "lost":
                suspects.append(i)
            else:
                yield i, outcome, content
        for i in suspects:
            ((_, outcome, content),) = self._run_once(function, [arguments[i]])
            yield i, outcome, content

    def count(self) -> int:
        """Returns the number of workers; 1 where all are just being restarted."""
        with self._scheduler():
            return max(1, len(workers_of(self.client)))

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
        for future in finished:
            i = waiting.pop(future)
            try:
                with self._scheduler():
                    outcome, content = future.result()
            except KilledWorker as error:
                late = "" if self.evaluation_timeout is None else f"; evaluation_timeout is {self.evaluation_timeout:g} s"
                outcome, content = "lost", f"workers died at it, the last on {error.last_worker.address}{late}"
            finally:
                future.release()
            yield i, outcome, content
            finished.update(submit(1))

    @contextlib.contextmanager
    def _scheduler(self) -> Iterator[None]:
        """Turns what Dask raises for a lost scheduler into an error of the run."""
        try:
            yield
        except (CommClosedError, FutureCancelledError, OSError) as error:
            address = self.where if self._client is None else self._client.scheduler_info()["address"]
            raise RunError(
                f"the scheduler at {address} is lost ({type(error).__name__}); what was evaluated is on disk, and the same "
                f"command resumes once there is a scheduler."
            ) from error

    def _connect(self) -> Client:
        if self.where.startswith(LOCAL):
            self._resources.enter_context(dask.config.set(LOCAL_CONFIG))  # some of it is read later
            cluster = LocalCluster(
                n_workers=int(self.where.removeprefix(LOCAL)),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                security=True,  # keys of its own: without, whoever is on this machine could run code
                silence_logs=logging.CRITICAL,
            )
            return Client(self._resources.enter_context(cluster), set_as_default=False)
        try:
            client = Client(self.where, set_as_default=False, timeout="10s")
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"no scheduler answers at {self.where}: {error}; start one, or give another --workers.") from error
        threads = workers_of(client)
        if not threads or any(count != 1 for count in threads.values()):
            client.close()
            found = f"workers have {sorted(set(threads.values()))} threads" if threads else "there are no workers"
            raise InputError(f"at {self.where} {found}; expected workers of one thread: dask worker {self.where} --nthreads 1")
        return client


class ProblemPlugin(WorkerPlugin):
    """Gives a problem to every worker, once, those included that come later; with the fitness terms of the user's own."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.name = f"evoprune-{evaluator.problem.hash}"
        self.problem_hash = evaluator.problem.hash
        # by value where it is the script's own, which workers of a running cluster do not import
        self.payload = cloudpickle.dumps(evaluator.problem)
        self.terms = cloudpickle.dumps(registered_terms())

    def setup(self, worker: Worker) -> None:
        """Keeps the problem in a worker."""
        for name, term in pickle.loads(self.terms).items():  # noqa: S301 - from the run's own origin
            if name not in TERMS:
                register_fitness(name, term)
        payloads[self.problem_hash] = self.payload


# In a worker: the problems that it was given, which are made when they are first needed.
payloads: dict[str, bytes] = {}


def work_here(problem_hash: str, *arguments: Any) -> tuple[str, Any]:
    """Evaluates a chunk in one of Dask's workers; see :func:`evoprune.parallel.work`."""
    brief, packed, evaluation_timeout = arguments
    return work(problem_hash, payloads.get(problem_hash), brief, packed, evaluation_timeout)


def workers_of(client: Client) -> dict[str, int]:
    """Returns the number of threads of each worker by its address."""
    return {address: int(worker["nthreads"]) for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}
