"""Forked processes, as ``multiprocessing`` starts them on Linux: torch's threads stay behind in the parent.

Whatever waits for one of them in the child waits for ever, so a forked process uses a single thread for good.
"""

from __future__ import annotations

import multiprocessing
import os

import torch

from evoprune.errors import InputError

_IMPORTED_BY = os.getpid()
CURE = "start processes with multiprocessing.get_context('spawn') or 'forkserver', or take the toolbox's own map with workers="


def is_forked() -> bool:
    """Tells whether this process was forked from one that may have used torch."""
    if os.getpid() != _IMPORTED_BY:
        return True
    # the package's modules are imported when they are used, which may be in the child alone
    method = multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.parent_process() is not None and method not in ("spawn", "forkserver")


def settle(threads: int = 1) -> None:
    """Lets torch use one thread from now on, where this process was forked.

    Args:
        threads: The requested number of threads.

    Raises:
        InputError: More than one thread, or PyTorch cannot work in this process.
    """
    if not is_forked():
        return
    if threads > 1:
        raise InputError(f"threads is {threads}, but a forked process can use one only; take threads=1, or {CURE}.")
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    try:  # a parent with a GPU leaves an autograd that raises
        torch.ones((), requires_grad=True).backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"PyTorch cannot train in this forked process ({error}); {CURE}.") from error
