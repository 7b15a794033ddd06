"""Chunks: the masks that are evaluated together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

from evoprune.masks.mask import Mask

T = TypeVar("T")


Chunk: TypeAlias = Sequence[Mask]


def split(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yields consecutive slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
