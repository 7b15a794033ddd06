"""The compiled kernels, and whether this machine can have them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from evoprune.engines.sparse import kernels
from evoprune.engines.sparse.trace import Network, trace
from evoprune.errors import InputError
from evoprune.problem.problem import Problem
from evoprune.system import terminal

# Processors whose vectors LLVM and numba know.
PROCESSORS = ("x86_64", "AMD64", "aarch64", "arm64")
# Seconds after which the user is told that kernels are being compiled.
PATIENCE = 8.0
# Seconds after which a process compiles kernels that another one should have compiled by then.
WAIT = 120.0
DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


@dataclass(frozen=True)
class Machine:
    """The kernels.

    Attributes:
        run: See :func:`evoprune.engines.sparse.kernels.steps.run`.
        lanes: The lanes of a vector, for each type of numbers.
        four: Four lanes.
        eight: Eight lanes.
        ready: The types of numbers that they are compiled for, in this process.
        direct: For each type of numbers the machine code, after the first call.
        version: The version of their code.
        preparing: Held by the thread that compiles.
    """

    run: Callable[..., float]
    lanes: Mapping[np.dtype[Any], Any]
    four: Any
    eight: Any
    ready: set[np.dtype[Any]] = field(default_factory=set)
    direct: dict[np.dtype[Any], Callable[..., None]] = field(default_factory=dict)
    version: str = ""
    preparing: threading.Lock = field(default_factory=threading.Lock)

    def call(self, dtype: np.dtype[Any], *args: Any) -> None:
        """Calls ``run`` with all arguments but the last three, which it adds.

        From the second call on, without numba's look at the types of all arguments, which takes longer than a small network.
        """
        given = (*args, self.lanes[dtype], self.four, self.eight)
        known = self.direct.get(dtype)
        if known is not None:
            known(*given)
            return
        self.prepare(dtype, given)
        self.run(*given)
        run: Any = self.run
        compiled = run.overloads.get(tuple(map(run.typeof_pyval, given)))
        if compiled is not None:
            self.direct[dtype] = compiled.entry_point

    def prepare(self, dtype: np.dtype[Any], given: Sequence[Any]) -> None:
        """Compiles the kernels for a type of numbers, or loads them, and tells the user if it takes long.

        Of several processes on this machine one compiles, and the others load what it has compiled.

        Args:
            dtype: The type of numbers.
            given: All arguments of ``run``.
        """
        if dtype in self.ready:
            return
        with self.preparing:
            if dtype not in self.ready:
                self._compile(dtype, given)

    def _compile(self, dtype: np.dtype[Any], given: Sequence[Any]) -> None:
        run: Any = self.run
        types, folder, misses = tuple(map(run.typeof_pyval, given)), run.stats.cache_path, _misses(run)
        # beside the machine code, so that it disappears with it
        done = Path(folder) / f"{dtype}-{self.version}.compiled" if folder and os.access(folder, os.W_OK) else None
        with self._told(dtype, lambda: _misses(run) > misses):
            if done and not done.exists():
                with _alone(done.parent / "kernels.lock"):
                    if not done.exists():
                        run.compile(types)
                        with suppress(OSError):  # of a full disk, say
                            done.touch()
            run.compile(types)  # which loads what another process has compiled
        self.ready.add(dtype)

    @contextmanager
    def _told(self, dtype: np.dtype[Any], is_compiled: Callable[[], bool]) -> Iterator[None]:
        """Tells the user what takes so long."""
        start, what = time.perf_counter(), f"the kernels of the engine 'sparse' for {dtype}"
        told = copy_context().run
        timer = threading.Timer(PATIENCE, told, (_tell, f"waiting for {what}, which are compiled once for this version"))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if (seconds := time.perf_counter() - start) > PATIENCE and is_compiled():
            _tell(f"compiled {what} in {seconds:.0f} s")


def _misses(run: Any) -> int:
    return sum(run.stats.cache_misses.values())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds a lock, but not for ever; goes ahead where there can be none."""
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # Timeout is an OSError; a folder in a network may have no locks
            stack.enter_context(FileLock(path, timeout=WAIT))
        yield


def _tell(text: str) -> None:
    """Prints a line on standard error; worker processes, which load what the main process compiled, say nothing."""
    if multiprocessing.parent_process() is None:
        terminal.note(text)


def fault() -> str:
    """Returns the reason why kernels cannot be compiled here; empty if they can."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "numba's compiler is switched off by NUMBA_DISABLE_JIT"
    if platform.machine() not in PROCESSORS:
        return f"numba does not compile for the processor {platform.machine()}"
    return "" if importlib.util.find_spec("numba") else "numba is not installed"


@functools.cache
def machine() -> Machine:
    """Returns the kernels, which are compiled when they are first called.

    Raises:
        InputError: They cannot be compiled here.
    """
    if reason := fault():
        raise InputError(f"the engine 'sparse' needs compiled kernels, and {reason}. Use the engine 'module'.")
    try:
        from evoprune.engines.sparse.kernels.steps import run
        from evoprune.engines.sparse.kernels.vectors import Lanes
    except ImportError as error:
        raise InputError(
            f"the engine 'sparse' needs numba, which cannot be imported: {error}. Use the engine 'module'."
        ) from error

    sources = sorted(Path(kernels.__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    lanes = {dtype: Lanes(64 // dtype.itemsize, version) for dtype in DTYPES.values()}
    return Machine(run, lanes, Lanes(4, version), Lanes(8, version), version=version)


def network_of(problem: Problem) -> Network:
    """Returns the problem's network as a program, which is kept with the problem.

    Raises:
        InputError: The engine cannot serve it.
    """
    if problem.device != "cpu":
        raise InputError(f"the device is {problem.device}; the engine 'sparse' is for the CPU. Use the engine 'stacked'.")
    if problem.dtype not in DTYPES:
        raise InputError(
            f"the dtype is {problem.dtype}; the engine 'sparse' knows float32 and float64. Use the engine 'module'."
        )
    if problem.recipe.precision != "full":
        raise InputError(
            f"precision is {problem.recipe.precision!r}; the kernels of the engine 'sparse' compute in full precision. Use the "
            f"engine 'module' or 'stacked', or precision='full'."
        )
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
