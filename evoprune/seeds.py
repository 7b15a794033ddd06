"""Random streams: every draw of a run comes from a named child of one seed.

A stream that gains or loses a draw leaves the others as they were, so that, say, another number of starts
does not change the initial weights.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import InputError

# The position in this tuple is the child's spawn key: append, never reorder.
STREAMS = ("weights", "split", "order", "masks", "variation", "selection", "restart")


def check_seed(seed: int) -> int:
    """Returns the seed.

    Raises:
        InputError: It is not a non-negative integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed is {seed!r}; expected a non-negative integer, such as 0.")
    return int(seed)


def sequence(seed: int, name: str) -> np.random.SeedSequence:
    """Returns the named child of ``SeedSequence(seed)``."""
    return np.random.SeedSequence(check_seed(seed), spawn_key=(STREAMS.index(name),))


def generator(seed: int, name: str) -> np.random.Generator:
    """Returns numpy's default generator on the named stream."""
    return np.random.default_rng(sequence(seed, name))


def integer(seed: int, name: str) -> int:
    """Returns one integer in [0, 2**63) of the named stream, for a library that takes a plain seed."""
    return int(sequence(seed, name).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seeds the global generators of torch, numpy and Python's ``random``, and restores them afterwards.

    Args:
        seed: From 0 to 2**64 - 1. torch's generators begin as after ``torch.manual_seed(seed)``.
        device: The device of the networks. Beside the CPU's generator only that of this device is seeded; other GPUs' keep
            their state.
    """
    generators = _generators(device)
    before = [generator.get_state() for generator in generators]
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        for generator in generators:
            generator.manual_seed(seed)
        np.random.seed(np.random.SeedSequence(seed).generate_state(4))
        random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def _generators(device: str) -> list[torch.Generator]:
    """Returns the global generators that networks on a device draw from."""
    found, place = [torch.default_generator], torch.device(device)
    if place.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if place.index is None else place.index
        found.append(torch.cuda.default_generators[index])
    return found


def noise(seed: int, epoch: int, device: str = "cpu") -> AbstractContextManager[None]:
    """Seeds the global generators for an epoch, so that all draws, such as dropout's, depend on seed and epoch alone.

    Args:
        seed: Seed of the training.
        epoch: The epoch.
        device: The device of the networks; see :func:`seeded`.
    """
    return seeded(int(np.random.default_rng([seed, epoch, 1]).integers(2**63)), device)


def augmentation_seeds(seed: int, epoch: int, first: int, until: int) -> list[int]:
    """Returns the seeds of the augmentation in some steps of an epoch, which depend on seed, epoch and step alone."""
    return [int(np.random.default_rng([seed, epoch, 2, step]).integers(2**63)) for step in range(first, until)]


@contextmanager
def global_random(stream: random.Random) -> Iterator[None]:
    """Lets code that draws from the global ``random``, as DEAP's operators do, draw from a given stream.

    The global state is restored afterwards, and the stream keeps its place.
    """
    before = random.getstate()
    random.setstate(stream.getstate())
    try:
        yield
    finally:
        stream.setstate(random.getstate())
        random.setstate(before)


def batch_order(n: int, batch: int, seed: int, epoch: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the row numbers of each batch of an epoch: a permutation that depends on seed and epoch alone."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    yield from torch.split(torch.from_numpy(order).to(device), batch)
