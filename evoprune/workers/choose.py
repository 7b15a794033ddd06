"""The choice of workers by name."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence

import torch

from evoprune.errors import InputError
from evoprune.registry import Registry
from evoprune.system.devices import check_devices
from evoprune.workers.base import Workers
from evoprune.workers.launcher import under_scoop
from evoprune.workers.pool import Pool
from evoprune.workers.scoop import Scoop
from evoprune.workers.serial import Serial

# Names of the back ends that give each process its GPU begin so.
_WITH_DEVICES = ("pool:", "dask:")


def choose_workers(
    name: str | Workers = "auto", evaluation_timeout: float | None = None, devices: Sequence[str] = ()
) -> Workers:
    """Returns the workers of a name.

    Args:
        name: ``serial``; ``pool:N``, N processes of this machine; ``scoop`` (the script must run under ``python -m
            evoprune.scoop``, or SCOOP's own launcher); ``auto``: SCOOP if the script runs under it, else serial; ``dask:N``
            or the address of a Dask scheduler, see :class:`evoprune.workers.dask.DaskWorkers`; or a registered name, alone or
            with a colon and more. An object with the methods of :class:`evoprune.workers.base.Workers` is returned as it is,
            with its own limits.
        evaluation_timeout: Seconds that the evaluation of a mask may take; a mask that takes longer counts as failed. None: no
            limit.
        devices: GPUs, such as cuda:0, one for each process of ``pool:N`` or ``dask:N``; none if they share one.

    Raises:
        InputError: An unknown name, an object without the methods, ``scoop`` without SCOOP's launcher, a limit that is not
            above 0 or that these workers cannot enforce, or devices that they cannot be given.
    """
    if evaluation_timeout is not None and not (math.isfinite(evaluation_timeout) and evaluation_timeout > 0):
        raise InputError(f"evaluation_timeout is {evaluation_timeout}; expected a number of seconds above 0.")
    if devices and not (isinstance(name, str) and name.startswith(_WITH_DEVICES)):
        raise InputError(
            f"devices are {' '.join(devices)}, but workers are {name!r}; expected pool:N or dask:N. SCOOP's launcher gives its "
            f"workers devices: python -m evoprune.scoop --devices {' '.join(devices)} -n {len(devices)} script.py ... The "
            f"workers of another cluster get theirs where they are started, by CUDA_VISIBLE_DEVICES."
        )
    if not isinstance(name, str):
        if not isinstance(name, Workers):
            raise InputError(
                f"workers are {name!r}; expected a name, or an object with the methods submit, wait, count and close."
            )
        if evaluation_timeout is not None:
            raise InputError(f"evaluation_timeout is {evaluation_timeout}, but workers are an object; expected a name.")
        return name
    make = WORKERS.get(name, WORKERS.get(name.partition(":")[0]))
    if make is None:
        expected = ", ".join(["auto", "serial", "scoop", "pool:N", "dask:N", *WORKERS.own])
        raise InputError(f"workers are {name!r}; expected {expected}, or a scheduler's address such as tcp://host:8786.")
    return make(name, evaluation_timeout, devices) if devices else make(name, evaluation_timeout)  # type: ignore[call-arg]


def require_devices(devices: Sequence[str], device: str) -> None:
    """Checks that GPUs for workers go with the device of the problem.

    Args:
        devices: GPUs of the workers; none if they share one.
        device: The problem's device.

    Raises:
        InputError: The problem names the CPU or a GPU by number, which workers may not see, or there is no such GPU.
    """
    if not devices:
        return
    if device != "cuda":
        raise InputError(
            f"devices are {' '.join(devices)}, but the device is {device}; expected cuda (--device cuda), which each worker "
            f"takes for its own GPU."
        )
    check_devices(devices, 1)
    count = torch.cuda.device_count()
    if missing := [each for each in devices if int(each.removeprefix("cuda:")) >= count]:
        raise InputError(
            f"devices are {' '.join(devices)}; {count} GPUs are here, and no {missing[0]}; expected some of these."
        )


def _serial(name: str, evaluation_timeout: float | None) -> Workers:
    if evaluation_timeout is not None:
        raise InputError(
            f"evaluation_timeout is {evaluation_timeout}, but this process cannot end an evaluation that hangs; take the "
            f"workers pool:1, or start with python -m evoprune.scoop -n 1 script.py ..."
        )
    return Serial()


def _auto(name: str, evaluation_timeout: float | None) -> Workers:
    return Scoop(evaluation_timeout) if under_scoop() else _serial(name, evaluation_timeout)


def _scoop(name: str, evaluation_timeout: float | None) -> Workers:
    return Scoop(evaluation_timeout)


def _dask(name: str, evaluation_timeout: float | None, devices: Sequence[str] = ()) -> Workers:
    if importlib.util.find_spec("distributed") is None:
        raise InputError(f"workers are {name!r}, but Dask is not installed: pip install 'evoprune[dask]'")
    from evoprune.workers.dask import DaskWorkers

    return DaskWorkers(name, evaluation_timeout, devices)


# By name, or by the part of a name before the colon: functions that make workers of the whole name and the time-out.
WORKERS: Registry[Callable[[str, float | None], Workers]] = Registry(
    "workers",
    {
        "serial": _serial,
        "auto": _auto,
        "pool": Pool,
        "scoop": _scoop,
        "dask": _dask,
        "tcp": _dask,
        "tls": _dask,
    },
)
