"""GPUs that processes see: each worker its own alone, by the environment in which it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from evoprune.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_EXAMPLE = "expected names such as cuda:0 cuda:1, each once"


def check_devices(devices: Sequence[str], workers: int) -> None:
    """Checks that workers have a GPU each.

    Args:
        devices: Names of the GPUs, such as cuda:0; none if workers share them.
        workers: Number of workers that share the machine.

    Raises:
        InputError: Names that are none of GPUs, one twice, or more workers than names.
    """
    if not devices:
        return
    for device in devices:
        if not device.startswith("cuda:") or not device.removeprefix("cuda:").isdecimal():
            raise InputError(f"devices are {' '.join(devices)}; {_EXAMPLE}.")
    if len({int(device.removeprefix("cuda:")) for device in devices}) < len(devices):
        raise InputError(f"devices are {' '.join(devices)}; {_EXAMPLE}.")
    if workers > len(devices):
        raise InputError(
            f"there are {workers} workers for {len(devices)} devices ({' '.join(devices)}); expected a device for each: take "
            f"{len(devices)} workers, or name more devices. Without devices all workers share the default GPU."
        )


def sees(device: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment variable under which a process sees one GPU alone, as ``cuda:0``; none without a device.

    Args:
        device: Its name here, such as cuda:1; empty for no choice.
        environment: The environment whose GPUs it is counted among; None: this process's.

    Raises:
        InputError: This process does not see it.
    """
    if not device:
        return {}
    number = int(device.removeprefix("cuda:"))
    given = (os.environ if environment is None else environment).get(VISIBLE)
    if given is None:
        return {VISIBLE: str(number)}
    visible = [name.strip() for name in given.split(",") if name.strip()]
    if number >= len(visible):
        raise InputError(f"the device is {device}, but {VISIBLE} is {given!r}, with {len(visible)}; expected one among these.")
    return {VISIBLE: visible[number]}
