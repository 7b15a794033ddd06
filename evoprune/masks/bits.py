"""The bits of a mask, and the slices of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[np.bool_]


def layer_slices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, slice]:
    """Returns the slice of a mask's bits that each layer takes, by parameter name."""
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes.values())]).tolist()
    return {name: slice(*pair) for name, pair in zip(shapes, pairwise(ends), strict=True)}
