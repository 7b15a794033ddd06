"""Dask's workers: of a local cluster, or of one that runs already, on whatever machines."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distributed import Client, as_completed
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from evoprune.errors import WorkersError
from evoprune.evaluation.job import forget_all
from evoprune.system.devices import check_devices, sees
from evoprune.workers.base import Lost, Outcome, attempt, pack
from evoprune.workers.dask_cluster import LOCAL, check_place, join_cluster, start_cluster, watching, workers_of


class DaskWorkers:
    """Workers of a Dask cluster, which is started, or joined, when it is first needed.

    Args:
        where: ``dask:N`` for a cluster of N processes on this machine, which ends with this object, or a scheduler's address,
            ``tcp://host:port`` or, with the certificates of Dask's configuration (``distributed.comm.tls``), ``tls://host:port``.
        evaluation_timeout: Seconds that the evaluation of a mask may take; None for no limit.
        devices: GPUs, such as cuda:0, one for each process of a local cluster, which sees it alone.

    Raises:
        InputError: ``where`` is none of these, or there are no certificates.
    """

    def __init__(self, where: str, evaluation_timeout: float | None = None, devices: Sequence[str] = ()) -> None:
        check_place(where)
        if devices:
            check_devices(devices, int(where.removeprefix(LOCAL)))
        self._devices = [sees(device) for device in devices]
        self.where, self.evaluation_timeout = where, evaluation_timeout
        self._client: Client | None = None
        self._finished: as_completed | None = None
        self._resources = contextlib.ExitStack()
        weakref.finalize(self, self._resources.close)

    @property
    def client(self) -> Client:
        """Dask's client.

        Raises:
            InputError: The cluster cannot be started, the scheduler cannot be reached, it has no workers, or they have several
                threads or, with a time-out, no nannies that start them again.
        """
        if self._client is None:
            if self.where.startswith(LOCAL):
                self._client = start_cluster(self.where, self._resources, self._devices)
            else:
                self._client = join_cluster(self.where, self.evaluation_timeout is not None, self._resources)
            self._finished = as_completed(loop=self._client.loop)
        return self._client

    def submit(self, function: Callable[..., Any], *arguments: Any) -> str:
        """Starts a task; its ticket is the key of Dask's future.

        Raises:
            InputError: The cluster cannot serve, see :attr:`client`, or the task cannot be sent.
            WorkersError: The scheduler is lost.
        """
        task = pack(function, arguments)
        with self._scheduler():
            future = self.client.submit(attempt, task, pure=False)
            assert self._finished is not None
            self._finished.add(future)
        return str(future.key)

    def wait(self) -> tuple[str, Outcome]:
        """Waits for one of the tasks; it is lost if several workers died while they did it or held it.

        Raises:
            WorkersError: The scheduler is lost, or a worker cannot run tasks.
        """
        assert self._finished is not None
        with watching(self.client, self.where), self._scheduler():
            future = next(self._finished)
            error = future.exception()
            outcome: Outcome = Lost("") if error is not None else future.result()
        if isinstance(error, KilledWorker):
            outcome = Lost(f"workers died at it, the last on {error.last_worker.address}")
        elif error is not None:  # tasks raise nothing themselves
            raise WorkersError(
                f"a worker at {self.where} cannot run a task: {type(error).__name__}: {error}; expected evoprune, of this "
                f"version, on every worker."
            )
        future.release()
        return str(future.key), outcome

    def count(self) -> int:
        """Returns the number of workers; 1 where all are just being restarted."""
        with self._scheduler():
            return max(1, len(workers_of(self.client)))

    def close(self) -> None:
        """Leaves the cluster, and ends a local one; when it is next needed, it is started or joined again."""
        if self._client is not None and not self.where.startswith(LOCAL) and self._client.status == "running":
            with contextlib.suppress(OSError, FutureCancelledError):  # it is lost, and the jobs with it
                self._client.run(forget_all, on_error="ignore")
        self._client = self._finished = None
        self._resources.close()

    @contextlib.contextmanager
    def _scheduler(self) -> Iterator[None]:
        """Turns Dask's errors of a lost scheduler into an error of the run."""
        try:
            yield
        except (OSError, FutureCancelledError) as error:
            address = self.where if self._client is None else self._client.scheduler_info()["address"]
            raise WorkersError(
                f"the scheduler at {address} is lost ({type(error).__name__}); finished evaluations are on disk, and the same "
                f"command resumes once there is a scheduler."
            ) from error
