"""Losses, with the gradients of the outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evoprune.engines.sparse.kernels.compiled import compiled
from evoprune.engines.sparse.kernels.elementwise import exp
from evoprune.engines.sparse.kernels.vectors import like, load, store, where


@compiled
def cross_entropy(
    places: Any, weights: Any, smoothing: float, labels: Any, weight: float, real: Any, y: Any, dy: Any, base: int,
    shift: int, n: int, scratch: Any, batch: int, width: int, unit: Any,
) -> float:  # fmt: skip
    """Returns a block's share of the mean cross-entropy, with class weights and smoothed labels as torch has them.

    Args:
        places: Where the outputs of the classes are.
        weights: The weights of the classes.
        smoothing: The part of a label that is spread over all classes.
        labels: The labels of the block.
        weight: The sum of the weights of the batch's labels.
        real: 1 for the block's real examples, 0 for others.
        base: Where the block's values begin.
        shift: From a value to its gradient.
        n: Number of real examples of the block.
        scratch: Room for three vectors.
    """
    found, mean_weight = 0.0, weights.mean()
    for j in range(0, batch, width):
        top = load(y, base + places[0] * batch + j, unit)
        for c in range(1, len(places)):
            v = load(y, base + places[c] * batch + j, unit)
            top = where(v > top, v, top)
        sums = like(0.0, top)
        for c in range(len(places)):
            i = base + places[c] * batch + j
            p = exp(load(y, i, unit) - top)
            sums = sums + p
            store(dy, i + shift, p)
        store(scratch, 0, top)
        store(scratch, width, sums)
        store(scratch, 2 * width, like(0.0, top))
        for lane in range(min(width, n - j)):
            label = labels[j + lane]
            own = (1 - smoothing) * weights[label] / weight
            z = math.log(np.float64(scratch[width + lane])) + scratch[lane]
            found += own * (z - y[base + places[label] * batch + j + lane])
            for c in range(len(places) if smoothing > 0 else 0):
                found += smoothing / len(places) * weights[c] / weight * (z - y[base + places[c] * batch + j + lane])
            scratch[2 * width + lane] = own + smoothing * mean_weight / weight
        factor = load(scratch, 2 * width, unit) / sums
        for c in range(len(places)):
            i = base + places[c] * batch + j
            part = like(smoothing / len(places) * weights[c] / weight, top) * load(real, j, unit)
            store(dy, i + shift, load(dy, i + shift, unit) * factor - part)
        for lane in range(min(width, n - j)):
            label = labels[j + lane]
            dy[base + shift + places[label] * batch + j + lane] -= (1 - smoothing) * weights[label] / weight
    return found


@compiled
def squared(
    places: Any,
    targets: Any,
    at: int,
    count: int,
    real: Any,
    y: Any,
    dy: Any,
    base: int,
    shift: int,
    scratch: Any,
    batch: int,
    width: int,
    unit: Any,
) -> float:
    """Returns a block's share of the mean squared error; count is the number of elements of the whole batch."""
    found = 0.0
    for c in range(len(places)):
        i = base + places[c] * batch
        sums = like(0.0, load(y, i, unit))
        for j in range(0, batch, width):
            d = (load(y, i + j, unit) - load(targets, at + c * batch + j, unit)) * load(real, j, unit)
            sums = sums + d * d
            store(dy, i + shift + j, d * like(2.0 / count, d))
        store(scratch, 0, sums)
        for lane in range(width):
            found += scratch[lane]
    return found / count
