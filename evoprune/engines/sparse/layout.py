"""Where the values of a network lie: places, and runs of them that several values share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Value:
    """A value of the network: the place of each of an example's features. A place holds the examples of a block side by side.

    Attributes:
        places: The places, shaped as one example.
        low: The first place that belongs to it, with the zeros around it.
        high: The place behind the last.
        halo: Number of zeros that lie around it in each dimension behind the channels.
        from_input: It lies among the batch's inputs, not in the workspace.
        is_wanted: The gradient of it is wanted, since parameters come before.
    """

    places: NDArray[np.int64]
    low: int
    high: int
    halo: tuple[int, ...]
    from_input: bool = False
    is_wanted: bool = True

    @property
    def start(self) -> int:
        """The place of the first feature."""
        return int(self.places.flat[0])

    def reshaped(self, shape: Sequence[int]) -> Value:
        """Returns the same value in another shape."""
        same = tuple(shape) == self.places.shape
        return replace(self, places=self.places.reshape(shape), halo=self.halo if same else ())

    def steps(self) -> tuple[int, ...] | None:
        """Returns the places from one feature to the next in each dimension; None if they are not regular."""
        shape = self.places.shape
        corner = (0,) * len(shape)
        units = [tuple(int(i == d) for i in range(len(shape))) for d in range(len(shape))]
        steps = tuple(
            int(self.places[unit] - self.places[corner]) if n > 1 else 0 for unit, n in zip(units, shape, strict=True)
        )
        regular = self.start + sum(
            (np.arange(n) * step).reshape([-1 if i == d else 1 for i in range(len(shape))])
            for d, (n, step) in enumerate(zip(shape, steps, strict=True))
        )
        return steps if np.array_equal(np.broadcast_to(regular, shape), self.places) else None


def allocate(shape: Sequence[int], halo: Sequence[int], start: int, from_input: bool = False) -> Value:
    """Returns a new value that begins at a place.

    Args:
        shape: Shape of one example.
        halo: Zeros around it in each dimension behind the channels.
        start: The first place.
        from_input: It lies among the batch's inputs.
    """
    widths = (0,) * (len(shape) - len(halo)) + tuple(halo)
    whole = [n + 2 * width for n, width in zip(shape, widths, strict=True)]
    size = math.prod(whole)
    inner = tuple(slice(width, width + n) for n, width in zip(shape, widths, strict=True))
    places = (start + np.arange(size).reshape(whole))[inner]
    return Value(np.ascontiguousarray(places), start, start + size, tuple(halo), from_input)


def runs(*places: NDArray[np.int64]) -> list[int]:
    """Returns the longest runs in which several lists of places go up by one at the same time.

    Returns:
        For each run the first place in each list, and its length, one after another.
    """
    flat = [each.reshape(-1) for each in places]
    breaks = np.zeros(len(flat[0]), bool)
    breaks[0] = True
    for each in flat:
        breaks[1:] |= np.diff(each) != 1
    starts = np.flatnonzero(breaks)
    lengths = np.diff([*starts, len(breaks)])
    return np.column_stack([*(each[starts] for each in flat), lengths]).reshape(-1).tolist()


def windows(
    sizes: Sequence[int], spans: Sequence[Sequence[tuple[Sequence[int], int]]]
) -> list[tuple[list[tuple[int, ...]], int]]:
    """Returns the windows of pooling: for each output position the input positions, and the divisor.

    Args:
        sizes: Lengths of the input's dimensions.
        spans: For each dimension and output position, the positions in the input, and the length that counts.
    """
    found = []
    for combined in itertools.product(*spans):
        inside = [[i for i in span if 0 <= i < n] for (span, _), n in zip(combined, sizes, strict=True)]
        found.append((list(itertools.product(*inside)), math.prod(length for _, length in combined)))
    return found
