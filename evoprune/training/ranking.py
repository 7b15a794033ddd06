"""The survivors that stay: the best of a ranking, over all layers or in each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evoprune.masks.bits import Bits
from evoprune.masks.mask import Mask
from evoprune.masks.random import apportion

SCOPES = ("global", "layer")


def without_last(mask: Mask, order: NDArray[np.int64], target: int, scope: str) -> Mask:
    """Returns a mask without the survivors that a ranking has first.

    Args:
        mask: The mask, which stays as it is.
        order: The survivors' numbers among the survivors, those first that go first.
        target: How many survivors stay.
        scope: ``global``: the first of all go. ``layer``: every layer keeps the same fraction of its survivors.
    """
    removed = np.zeros(len(order), bool)
    if scope == "global":
        removed[order[: len(order) - target]] = True
    else:
        layer = layer_numbers(mask.shapes)[mask.bits]
        present = np.bincount(layer, minlength=len(mask.shapes))
        for i, kept in enumerate(apportion(np.ones(len(present)), present, min(target, len(order)))):
            own = order[layer[order] == i]
            removed[own[: len(own) - kept]] = True
    bits: Bits = mask.bits.copy()
    bits[bits] = ~removed
    return Mask(bits, mask.shapes)


def layer_numbers(shapes: Mapping[str, tuple[int, ...]]) -> NDArray[np.int64]:
    """Returns for each prunable weight the number of its layer."""
    return np.repeat(np.arange(len(shapes)), [math.prod(shape) for shape in shapes.values()])
