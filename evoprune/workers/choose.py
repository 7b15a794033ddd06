"""The choice of workers by name."""

from __future__ import annotations

import functools
import importlib.util
import math

from evoprune.errors import InputError
from evoprune.evaluation.workers import Workers
from evoprune.workers.base import Cluster
from evoprune.workers.launcher import under_own_launcher, under_scoop
from evoprune.workers.scoop import count_on_scoop, scoop, warn_of_stock_launcher
from evoprune.workers.serial import serial


def choose_workers(name: str | Workers = "auto", evaluation_timeout: float | None = None) -> Workers:
    """Returns who evaluates.

    Args:
        name: ``serial``; ``scoop`` (the script must run under ``python -m evoprune.scoop``, or SCOOP's own launcher); ``auto``:
            SCOOP where the script runs under it, else serial; ``dask:N`` or the address of a Dask scheduler, see
            :class:`evoprune.workers.dask.DaskWorkers`. An object that evaluates is returned as it is, with its own limits.
        evaluation_timeout: Seconds that the evaluation of a mask may take; a mask that takes longer counts as failed. None: no
            limit.

    Raises:
        InputError: An unknown name, ``scoop`` where SCOOP does not run, or a limit that is not above 0 or that nobody can
            enforce.
    """
    if evaluation_timeout is not None and not (math.isfinite(evaluation_timeout) and evaluation_timeout > 0):
        raise InputError(f"evaluation_timeout is {evaluation_timeout}; expected a number of seconds above 0.")
    if not isinstance(name, str):
        if evaluation_timeout is not None:
            raise InputError(f"evaluation_timeout is {evaluation_timeout}, but workers are an object; expected a name.")
        return name
    if name.startswith(("dask:", "tcp://", "tls://")):
        return _dask(name, evaluation_timeout)
    if name not in ("auto", "serial", "scoop"):
        raise InputError(
            f"workers are {name!r}; expected auto, serial, scoop, dask:N, or a scheduler's address such as tcp://host:8786."
        )
    running = under_scoop()
    if name == "scoop" and not running:
        raise InputError("workers are 'scoop', but SCOOP does not run; start with: python -m evoprune.scoop -n 2 script.py ...")
    chosen = scoop if running and name != "serial" else serial
    if chosen is scoop:
        warn_of_stock_launcher()
    if evaluation_timeout is None:
        return chosen
    if chosen is serial or not under_own_launcher():
        raise InputError(
            f"evaluation_timeout is {evaluation_timeout}, but this process cannot end an evaluation that hangs; start with "
            f"python -m evoprune.scoop -n 1 script.py ..., or take the workers dask:1."
        )
    return functools.partial(scoop, evaluation_timeout=evaluation_timeout)


def _dask(name: str, evaluation_timeout: float | None) -> Workers:
    if importlib.util.find_spec("distributed") is None:
        raise InputError(f"workers are {name!r}, but Dask is not installed: pip install 'evoprune[dask]'")
    from evoprune.workers.dask import DaskWorkers

    return DaskWorkers(name, evaluation_timeout)


def count_workers(workers: Workers) -> int:
    """Returns how many processes evaluate.

    Raises:
        InputError: It is not known of such workers.
    """
    require_a_count(workers)
    if isinstance(workers, Cluster):
        return workers.count()
    if workers is serial:
        return 1
    return count_on_scoop()


def require_a_count(workers: Workers) -> None:
    """Checks that :func:`count_workers` can count workers.

    Raises:
        InputError: It cannot.
    """
    if not isinstance(workers, Cluster) and getattr(workers, "func", workers) not in (serial, scoop):
        raise InputError(f"workers are {workers!r}, which are not known to be of some number; expected slots to be given.")
