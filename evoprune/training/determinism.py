"""Torch's settings under which a GPU gives the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from evoprune.engines.check import try_steps
from evoprune.errors import InputError
from evoprune.problem.problem import Problem

T = TypeVar("T")


@contextmanager
def deterministic(device: str, wanted: bool = True) -> Iterator[None]:
    """Lets torch take deterministic algorithms only, and none of reduced precision, and restores its settings afterwards.

    On the CPU, or if it is not wanted, nothing is set. Torch then raises a RuntimeError for an operation that has no such
    algorithm; :func:`require_deterministic` finds it before a search. Memory that a network reads before it was written is
    filled, which takes time, too.

    Args:
        device: The device of the networks.
        wanted: Whether they are set.
    """
    if torch.device(device).type != "cuda" or not wanted:
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = True, False, False, False
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before


def call_deterministically(device: str, wanted: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Returns the value of a function that is called under :func:`deterministic`, as in a worker."""
    with deterministic(device, wanted):
        return function(*arguments)


def settings_now(device: str) -> dict[str, Any]:
    """Returns the settings that decide a GPU's arithmetic, as JSON values; empty on the CPU."""
    if torch.device(device).type != "cuda":
        return {}
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def require_deterministic(problem: Problem, wanted: bool = True) -> None:
    """Tries two steps of training under the deterministic settings, so that a search does not fail mask by mask.

    Raises:
        InputError: An operation of the network or of its gradient has no deterministic algorithm on the device.
    """
    if torch.device(problem.device).type != "cuda" or not wanted:
        return
    try:
        with deterministic(problem.device):
            try_steps(problem)
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        raise InputError(
            f"this problem cannot be trained deterministically on {problem.device}: {str(error).splitlines()[0]} Expected a "
            f"network of operations that can, CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment before CUDA is used, or "
            f"deterministic=False (--no-deterministic), under which numbers may differ from one run to the next."
        ) from error
