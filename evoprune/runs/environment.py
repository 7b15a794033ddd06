"""The environment that a run records."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from evoprune.problem.usercode import RECORDED
from evoprune.training.determinism import deterministic, settings_now


def environment(device: str | None, execution: Mapping[str, Any]) -> dict[str, Any]:
    """Returns versions, machine, device, threads and the git commit of the working folder, as JSON values."""
    versions: dict[str, str | None] = {}
    for package in sorted(RECORDED.values()):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    settings: dict[str, Any] = {}
    if device is not None and device != "cpu":
        with deterministic(device, execution.get("deterministic", False)):
            settings = {"gpu_settings": settings_now(device)}
    return {
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if device and device.startswith("cuda") else device,
        "threads": execution.get("threads"),
        **settings,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
