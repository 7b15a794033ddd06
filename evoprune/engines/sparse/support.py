"""The compiled kernels, and whether this machine can have them."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune.engines.sparse import kernels
from evoprune.engines.sparse.trace import Network, trace
from evoprune.errors import InputError
from evoprune.problem.problem import Problem

# Processors whose vectors LLVM and numba know.
PROCESSORS = ("x86_64", "AMD64", "aarch64", "arm64")
DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


@dataclass(frozen=True)
class Machine:
    """The kernels.

    Attributes:
        run: See :func:`evoprune.engines.sparse.kernels.steps.run`.
        lanes: The lanes of a vector, for each type of numbers.
        four: Four lanes.
        eight: Eight lanes.
    """

    run: Callable[..., float]
    lanes: Mapping[np.dtype[Any], Any]
    four: Any
    eight: Any


def fault() -> str:
    """Returns the reason why kernels cannot be compiled here; empty if they can."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "numba's compiler is switched off by NUMBA_DISABLE_JIT"
    if platform.machine() not in PROCESSORS:
        return f"numba does not compile for the processor {platform.machine()}"
    try:
        import numba  # noqa: F401
    except ImportError as error:
        return f"numba cannot be imported: {error}"
    return ""


@functools.cache
def machine() -> Machine:
    """Returns the kernels, which are compiled when they are first called.

    Raises:
        InputError: They cannot be compiled here.
    """
    if reason := fault():
        raise InputError(f"the engine 'sparse' needs compiled kernels, and {reason}. Use the engine 'module'.")
    from evoprune.engines.sparse.kernels.steps import run
    from evoprune.engines.sparse.kernels.vectors import Lanes

    sources = sorted(Path(kernels.__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    lanes = {dtype: Lanes(64 // dtype.itemsize, version) for dtype in DTYPES.values()}
    return Machine(run, lanes, Lanes(4, version), Lanes(8, version))


def network_of(problem: Problem) -> Network:
    """Returns the problem's network as a program, which is kept with the problem.

    Raises:
        InputError: The engine cannot serve it.
    """
    if problem.device != "cpu":
        raise InputError(f"the device is {problem.device}; the engine 'sparse' is for the CPU. Use the engine 'stacked'.")
    if problem.dtype not in DTYPES:
        raise InputError(f"the dtype is {problem.dtype}; the engine 'sparse' knows float32 and float64. Use the engine 'module'.")
    if "sparse" not in problem.programs:
        x, _ = problem.part("train")
        if x.dtype != problem.dtype:
            raise InputError(f"inputs are {x.dtype}; the engine 'sparse' expects {problem.dtype}. Use the engine 'module'.")
        problem.programs["sparse"] = trace(problem.network(), x[:3], problem.recipe.batch_size)
    found: Network = problem.programs["sparse"]
    return found


def tensor_dtype(tensors: Mapping[str, Tensor]) -> np.dtype[Any]:
    """Returns the type of the floating point tensors."""
    return next(DTYPES[tensor.dtype] for tensor in tensors.values() if tensor.is_floating_point())
