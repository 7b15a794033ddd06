"""Batch and layer normalisation."""

from __future__ import annotations

import math
from typing import Any

from evoprune.engines.sparse.kernels.codes import (
    CHANNELS,
    COUNTER,
    EPS,
    FEATURES,
    FRESH,
    GROUPS,
    LIST,
    MOMENTUM,
    RELU,
    RUNNING,
    SAVED,
    SCALE,
    SHIFT,
    WANTED,
)  # fmt: skip
from evoprune.engines.sparse.kernels.compiled import compiled, inlined
from evoprune.engines.sparse.kernels.elementwise import add, gated, rectified
from evoprune.engines.sparse.kernels.vectors import fma, like, load, sqrt, store, total, where


@compiled
def _moments(
    op: Any, tables: Any, c: int, real: Any, x: Any, x_base: int, x_block: int, blocks: int, batch: int, width: int, unit: Any
) -> Any:
    """Returns a channel's mean, sum of squared deviations, and number of elements, over the real examples.

    In one pass, around the channel's first element: sums of squares around zero would lose the digits of a small variance.
    """
    around = x[x_base + tables[tables[op[LIST] + c]] * batch]
    sums = load(real, 0, unit) * like(0.0, load(real, 0, unit))
    squares, counts = sums, sums
    for b in range(blocks):
        for run in range(tables[op[LIST] + c], tables[op[LIST] + c + 1], 3):
            p, n = x_base + b * x_block + tables[run] * batch, tables[run + 2] * batch
            for j in range(0, n, width):
                on = load(real, b * batch + j % batch, unit)
                d = (load(x, p + j, unit) - like(around, sums)) * on
                sums = sums + d
                squares = fma(d, d, squares)
                counts = counts + on
    number, offset = total(counts), total(sums)
    return around + offset / number, max(total(squares) - offset * offset / number, 0 * offset), number


@compiled
def batch_norm_forward(
    op: Any, numbers: Any, tables: Any, one: Any, real: Any, x: Any, x_base: int, x_block: int, y: Any, y_base: int,
    y_block: int, saved: Any, blocks: int, batch: int, width: int, unit: Any, training: bool,
) -> None:  # fmt: skip
    """Normalises each channel by the batch's moments in training, which it saves, else by the running ones."""
    channels, running = op[CHANNELS], op[RUNNING]
    rate = numbers[MOMENTUM]
    if training and running >= 0:
        one.counts[op[COUNTER]] += 1
        if rate < 0:  # the plain average of all batches
            rate = 1.0 / one.counts[op[COUNTER]]
    for c in range(channels):
        if training or running < 0:
            mean, squares, number = _moments(op, tables, c, real, x, x_base, x_block, blocks, batch, width, unit)
            variance = squares / number
            if training and running >= 0:
                one.buffers[running + c] += rate * (mean - one.buffers[running + c])
                unbiased = squares / (number - 1)
                one.buffers[running + channels + c] += rate * (unbiased - one.buffers[running + channels + c])
        else:
            mean, variance = one.buffers[running + c], one.buffers[running + channels + c]
        inverse = 1 / math.sqrt(variance + numbers[EPS])
        saved[op[SAVED] + c], saved[op[SAVED] + channels + c] = mean, inverse
        scale = one.values[one.starts[op[SCALE]] + c] if op[SCALE] >= 0 else one.zero + 1
        shift = one.values[one.starts[op[SHIFT]] + c] if op[SHIFT] >= 0 else one.zero
        for b in range(blocks):
            for run in range(tables[op[LIST] + c], tables[op[LIST] + c + 1], 3):
                p, n = x_base + b * x_block + tables[run] * batch, tables[run + 2] * batch
                q = y_base + b * y_block + tables[run + 1] * batch
                for j in range(0, n, width):
                    v = load(x, p + j, unit)
                    v = fma(v - like(mean, v), like(inverse * scale, v), like(shift, v))
                    if op[RELU]:
                        v = rectified(v)
                    store(y, q + j, v)


@compiled
def batch_norm_backward(
    op: Any, tables: Any, one: Any, real: Any, x: Any, x_base: int, x_block: int, dx: Any, dx_shift: int, dy: Any,
    dy_shift: int, y_base: int, y_block: int, g_block: int, saved: Any, blocks: int, batch: int, width: int, unit: Any,
    training: bool,
) -> None:  # fmt: skip
    """Adds to the gradients of scale and shift; sets dx, or adds to it. Padded examples have a gradient of zero."""
    channels = op[CHANNELS]
    for c in range(channels):
        mean, inverse = saved[op[SAVED] + c], saved[op[SAVED] + channels + c]
        scale = one.values[one.starts[op[SCALE]] + c] if op[SCALE] >= 0 else one.zero + 1
        shift = one.values[one.starts[op[SHIFT]] + c] if op[SHIFT] >= 0 else one.zero
        of_shift = load(real, 0, unit) * like(0.0, load(real, 0, unit))
        of_scale, counts = of_shift, of_shift
        for b in range(blocks):
            for run in range(tables[op[LIST] + c], tables[op[LIST] + c + 1], 3):
                p, n = x_base + b * x_block + tables[run] * batch, tables[run + 2] * batch
                q = y_base + b * g_block + tables[run + 1] * batch + dy_shift
                for j in range(0, n, width):
                    d, centred = load(dy, q + j, unit), load(x, p + j, unit) - like(mean, of_shift)
                    if op[RELU]:  # as the forward pass computed it, which is quicker than to load it
                        d = gated(d, fma(centred, like(inverse * scale, d), like(shift, d)))
                    counts = counts + load(real, b * batch + j % batch, unit)
                    of_shift = of_shift + d
                    of_scale = fma(d, centred * like(inverse, d), of_scale)
        sum_shift, sum_scale, number = total(of_shift), total(of_scale), total(counts)
        if op[SCALE] >= 0:
            one.gradients[one.starts[op[SCALE]] + c] += sum_scale
        if op[SHIFT] >= 0:
            one.gradients[one.starts[op[SHIFT]] + c] += sum_shift
        if not op[WANTED]:
            continue
        by_batch = training or op[RUNNING] < 0
        share = sum_shift / number if by_batch else one.zero
        slope = sum_scale / number * inverse if by_batch else one.zero
        for b in range(blocks):
            for run in range(tables[op[LIST] + c], tables[op[LIST] + c + 1], 3):
                p, n = x_base + b * x_block + tables[run] * batch, tables[run + 2] * batch
                q = y_base + b * g_block + tables[run + 1] * batch + dy_shift
                to = p - b * x_block + b * g_block + dx_shift
                for j in range(0, n, width):
                    d, centred = load(dy, q + j, unit), load(x, p + j, unit) - like(mean, of_shift)
                    if op[RELU]:
                        d = gated(d, fma(centred, like(inverse * scale, d), like(shift, d)))
                    if by_batch:
                        d = d - like(share, d) - centred * like(slope, d)
                    g = d * like(inverse * scale, d)
                    g = g * load(real, b * batch + j % batch, unit)
                    add(dx, to + j, g, op[FRESH], unit)


@inlined
def _inverse(variance: Any, eps: float) -> Any:
    """Returns one over the standard deviations; NaN for a variance that overflows, of which zero would make a constant."""
    found = like(1.0, variance) / sqrt(variance + like(eps, variance))
    return where(variance < like(math.inf, variance), found, like(math.nan, variance))


@compiled
def layer_norm_forward(
    op: Any, numbers: Any, tables: Any, one: Any, x: Any, x_base: int, y: Any, y_base: int, batch: int, width: int, unit: Any
) -> None:
    """Normalises groups of features of each example."""
    features, groups = op[FEATURES], op[GROUPS]
    for g in range(groups):
        at = op[LIST] + 2 * g * features
        for j in range(0, batch, width):
            mean = like(0.0, load(x, x_base, unit))
            square = mean
            for i in range(features):
                mean = mean + load(x, x_base + tables[at + 2 * i] * batch + j, unit)
            mean = mean * like(1.0 / features, mean)
            for i in range(features):
                d = load(x, x_base + tables[at + 2 * i] * batch + j, unit) - mean
                square = fma(d, d, square)
            inverse = _inverse(square * like(1.0 / features, mean), numbers[EPS])
            for i in range(features):
                v = (load(x, x_base + tables[at + 2 * i] * batch + j, unit) - mean) * inverse
                if op[SCALE] >= 0:
                    v = v * like(one.values[one.starts[op[SCALE]] + i], v)
                if op[SHIFT] >= 0:
                    v = v + like(one.values[one.starts[op[SHIFT]] + i], v)
                store(y, y_base + tables[at + 2 * i + 1] * batch + j, v)


@compiled
def layer_norm_backward(
    op: Any, numbers: Any, tables: Any, one: Any, x: Any, x_base: int, dx: Any, dx_shift: int, dy: Any, dy_shift: int,
    y_base: int, batch: int, width: int, unit: Any,
) -> None:  # fmt: skip
    """Adds to the gradients of scale and shift; sets dx, or adds to it."""
    features, groups = op[FEATURES], op[GROUPS]
    part = 1.0 / features
    for g in range(groups):
        at = op[LIST] + 2 * g * features
        for j in range(0, batch, width):
            mean = like(0.0, load(x, x_base, unit))
            square, sum_d, sum_dx = mean, mean, mean
            for i in range(features):
                mean = mean + load(x, x_base + tables[at + 2 * i] * batch + j, unit)
            mean = mean * like(part, mean)
            for i in range(features):
                d = load(x, x_base + tables[at + 2 * i] * batch + j, unit) - mean
                square = fma(d, d, square)
            inverse = _inverse(square * like(part, mean), numbers[EPS])
            for i in range(features):
                v = (load(x, x_base + tables[at + 2 * i] * batch + j, unit) - mean) * inverse
                d = load(dy, y_base + dy_shift + tables[at + 2 * i + 1] * batch + j, unit)
                if op[SCALE] >= 0:
                    one.gradients[one.starts[op[SCALE]] + i] += total(d * v)
                if op[SHIFT] >= 0:
                    one.gradients[one.starts[op[SHIFT]] + i] += total(d)
                if op[SCALE] >= 0:
                    d = d * like(one.values[one.starts[op[SCALE]] + i], d)
                sum_d = sum_d + d
                sum_dx = fma(d, v, sum_dx)
            if op[WANTED]:
                sum_d, sum_dx = sum_d * like(part, mean), sum_dx * like(part, mean)
                for i in range(features):
                    p = x_base + tables[at + 2 * i] * batch + j
                    v = (load(x, p, unit) - mean) * inverse
                    d = load(dy, y_base + dy_shift + tables[at + 2 * i + 1] * batch + j, unit)
                    if op[SCALE] >= 0:
                        d = d * like(one.values[one.starts[op[SCALE]] + i], d)
                    d = (d - sum_d - v * sum_dx) * inverse
                    add(dx, p + dx_shift, d, op[FRESH], unit)
