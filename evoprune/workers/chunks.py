"""Sharing out masks among workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.job import Job

T = TypeVar("T")


def share_out(job: Job, chunks: Sequence[Chunk], workers: int) -> list[Chunk]:
    """Returns all masks in pieces of equal size, as many for each worker, and none larger than a chunk.

    If other masks in a chunk may change a mask's last bits, the chunks are returned as they are.
    """
    if not chunks or not job.engine.company_changes_no_bit(job.problem):
        return list(chunks)
    return equal_pieces(chunks, workers)


def equal_pieces(chunks: Sequence[Sequence[T]], workers: int) -> list[Sequence[T]]:
    """Returns the items of chunks in pieces of equal size, as many for each worker, none larger than a chunk, larger first."""
    items = [item for chunk in chunks for item in chunk]
    rounds = math.ceil(len(items) / (workers * max(len(chunk) for chunk in chunks)))
    count = min(rounds * workers, len(items))
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return sorted((items[start:end] for start, end in pairwise(bounds)), key=len, reverse=True)
