"""The number of threads that torch uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evoprune.system.forks import settle


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Sets the number of torch's threads, and restores it afterwards.

    Raises:
        InputError: Several, in a forked process.
    """
    settle(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
