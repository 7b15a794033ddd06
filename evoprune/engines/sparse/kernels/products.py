"""Products with surviving weights: linear layers and convolutions, forward and backward.

Every surviving weight is one scaled addition of a row of the batch to the row of an output, and its gradient one dot product
(direct sparse convolution; Park et al., ICLR 2017, arXiv:1608.01409). A linear layer is a convolution of one position.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evoprune.engines.sparse.kernels.codes import (
    BIAS,
    FRESH,
    HIGH,
    LENGTH,
    LIST,
    LOW,
    POINTERS,
    RELU,
    ROWS,
    STEP,
    WANTED,
)  # fmt: skip
from evoprune.engines.sparse.kernels.compiled import compiled, inlined
from evoprune.engines.sparse.kernels.elementwise import clear, gated, rectified
from evoprune.engines.sparse.kernels.vectors import fma, load, peek, splat, store, total, totals


@compiled
def product_forward(
    op: Any, tables: Any, one: Any, x: Any, x_base: int, y: Any, y_base: int, batch: int, width: int, unit: Any
) -> None:
    """Sets y to bias + weights times x, and to zero below zero if ReLU follows."""
    first, relu, y_step = op[POINTERS], op[RELU], op[STEP] * batch
    bias = one.starts[op[BIAS]] if op[BIAS] >= 0 else -1
    for i in range(op[LENGTH]):
        run = op[LIST] + 4 * i
        x_run, y_run = x_base + tables[run] * batch, y_base + tables[run + 1] * batch
        units, step = tables[run + 2] * batch // width, tables[run + 3] * width
        j = 0
        while j < units:
            four = units - j >= 4
            for r in range(op[ROWS]):
                b = splat(peek(one.values, bias + r) if bias >= 0 else one.zero, unit)
                at = x_run + j * step
                to = y_run + r * y_step + j * width
                if four:
                    y0, y1, y2, y3 = b, b, b, b
                    for e in range(peek(one.pointers, first + r), peek(one.pointers, first + r + 1)):
                        w = splat(peek(one.values, e), unit)
                        p = at + np.int64(peek(one.columns, e)) * batch
                        y0 = fma(w, load(x, p, unit), y0)
                        y1 = fma(w, load(x, p + step, unit), y1)
                        y2 = fma(w, load(x, p + 2 * step, unit), y2)
                        y3 = fma(w, load(x, p + 3 * step, unit), y3)
                    if relu:
                        y0, y1 = rectified(y0), rectified(y1)
                        y2, y3 = rectified(y2), rectified(y3)
                    store(y, to, y0)
                    store(y, to + width, y1)
                    store(y, to + 2 * width, y2)
                    store(y, to + 3 * width, y3)
                else:
                    y0 = b
                    for e in range(peek(one.pointers, first + r), peek(one.pointers, first + r + 1)):
                        p = at + np.int64(peek(one.columns, e)) * batch
                        y0 = fma(splat(peek(one.values, e), unit), load(x, p, unit), y0)
                    if relu:
                        y0 = rectified(y0)
                    store(y, to, y0)
            j += 4 if four else 1


@compiled
def product_backward(
    op: Any, tables: Any, one: Any, x: Any, x_base: int, dx: Any, dx_shift: int, y: Any, dy: Any, dy_shift: int, y_base: int,
    batch: int, width: int, unit: Any, four: Any,
) -> None:  # fmt: skip
    """Adds to the gradients of weights and biases, and to dx; sets dy to zero where ReLU was."""
    if op[WANTED] and op[FRESH]:
        clear(dx, x_base + dx_shift + op[LOW] * batch, x_base + dx_shift + op[HIGH] * batch, width, unit)
    for i in range(op[LENGTH]):
        run = op[LIST] + 4 * i
        at, to = x_base + tables[run] * batch, y_base + tables[run + 1] * batch
        units, step = tables[run + 2] * batch // width, tables[run + 3] * width
        if units == 4:
            _four_units(op, one, x, dx, dx_shift, y, dy, dy_shift, at, to, step, batch, width, unit, four)
            continue
        _close_row(op, one, y, dy, dy_shift, to, units, batch, width, unit)
        _weigh_row(op, one, x, dy, dy_shift, at, to, step, units, batch, width, unit)
        if op[WANTED]:
            _spread_row(op, one, dx, at + dx_shift, dy, to + dy_shift, step, units, batch, width, unit)


@compiled
def _close_row(
    op: Any, one: Any, y: Any, dy: Any, dy_shift: int, to: int, units: int, batch: int, width: int, unit: Any
) -> None:
    """Sets a run of dy to zero where ReLU was, and adds it to the gradients of the biases."""
    bias = one.starts[op[BIAS]] if op[BIAS] >= 0 else -1
    for r in range(op[ROWS] if op[RELU] or bias >= 0 else 0):
        q = to + r * op[STEP] * batch
        sums = splat(one.zero, unit)
        for j in range(0, units * width, width):
            d = load(dy, q + dy_shift + j, unit)
            if op[RELU]:
                d = gated(d, load(y, q + j, unit))
                store(dy, q + dy_shift + j, d)
            sums = sums + d
        if bias >= 0:
            one.gradients[bias + r] += total(sums)


@compiled
def _weigh_row(
    op: Any,
    one: Any,
    x: Any,
    dy: Any,
    dy_shift: int,
    at: int,
    to: int,
    step: int,
    units: int,
    batch: int,
    width: int,
    unit: Any,
) -> None:
    """Adds a run's part to the gradients of the weights."""
    first = op[POINTERS]
    for r in range(op[ROWS]):
        q = to + r * op[STEP] * batch + dy_shift
        for e in range(peek(one.pointers, first + r), peek(one.pointers, first + r + 1)):
            p = at + np.int64(peek(one.columns, e)) * batch
            a = splat(one.zero, unit)
            b, c, d = a, a, a
            j = 0
            while j + 4 <= units:
                i, k = p + j * step, q + j * width
                a = fma(load(dy, k, unit), load(x, i, unit), a)
                b = fma(load(dy, k + width, unit), load(x, i + step, unit), b)
                c = fma(load(dy, k + 2 * width, unit), load(x, i + 2 * step, unit), c)
                d = fma(load(dy, k + 3 * width, unit), load(x, i + 3 * step, unit), d)
                j += 4
            while j < units:
                a = fma(load(dy, q + j * width, unit), load(x, p + j * step, unit), a)
                j += 1
            one.gradients[e] += total((a + b) + (c + d))


@compiled
def _spread_row(
    op: Any, one: Any, dx: Any, at: int, dy: Any, to: int, step: int, units: int, batch: int, width: int, unit: Any
) -> None:
    """Adds a run of dy times the weights to dx; few units at a time, so that their inputs stay in the nearest cache."""
    first, j = op[POINTERS], 0
    while j < units:
        for r in range(op[ROWS]):
            q = to + r * op[STEP] * batch + j * width
            if units - j >= 4:
                d0, d1 = load(dy, q, unit), load(dy, q + width, unit)
                d2, d3 = load(dy, q + 2 * width, unit), load(dy, q + 3 * width, unit)
                for e in range(peek(one.pointers, first + r), peek(one.pointers, first + r + 1)):
                    _spread(one, np.int64(e), dx, at + j * step, step, batch, d0, d1, d2, d3, unit)
            else:
                d0 = load(dy, q, unit)
                for e in range(peek(one.pointers, first + r), peek(one.pointers, first + r + 1)):
                    p = at + j * step + np.int64(peek(one.columns, e)) * batch
                    store(dx, p, fma(splat(peek(one.values, e), unit), d0, load(dx, p, unit)))
        j += 4 if units - j >= 4 else 1


@compiled
def _four_units(
    op: Any, one: Any, x: Any, dx: Any, dx_shift: int, y: Any, dy: Any, dy_shift: int, at: int, to: int, step: int, batch: int,
    width: int, unit: Any, four: Any,
) -> None:  # fmt: skip
    """Does all for a run of four units, whose gradients stay in registers."""
    first, wanted, y_step = op[POINTERS], op[WANTED], op[STEP] * batch
    bias = one.starts[op[BIAS]] if op[BIAS] >= 0 else -1
    for r in range(op[ROWS]):
        q = to + r * y_step
        t = q + dy_shift
        d0, d1, d2, d3 = (
            load(dy, t, unit),
            load(dy, t + width, unit),
            load(dy, t + 2 * width, unit),
            load(dy, t + 3 * width, unit),
        )
        if op[RELU]:
            d0, d1 = gated(d0, load(y, q, unit)), gated(d1, load(y, q + width, unit))
            d2, d3 = gated(d2, load(y, q + 2 * width, unit)), gated(d3, load(y, q + 3 * width, unit))
            store(dy, t, d0)
            store(dy, t + width, d1)
            store(dy, t + 2 * width, d2)
            store(dy, t + 3 * width, d3)
        if bias >= 0:
            one.gradients[bias + r] += total((d0 + d1) + (d2 + d3))
        e, end = np.int64(peek(one.pointers, first + r)), np.int64(peek(one.pointers, first + r + 1))
        while e + 4 <= end:  # four sums in one go
            g0 = _dot(one, e, x, at, step, batch, d0, d1, d2, d3, unit)
            g1 = _dot(one, e + 1, x, at, step, batch, d0, d1, d2, d3, unit)
            g2 = _dot(one, e + 2, x, at, step, batch, d0, d1, d2, d3, unit)
            g3 = _dot(one, e + 3, x, at, step, batch, d0, d1, d2, d3, unit)
            store(one.gradients, e, load(one.gradients, e, four) + totals(g0, g1, g2, g3))
            for i in range(e, e + 4 if wanted else e):
                _spread(one, i, dx, at + dx_shift, step, batch, d0, d1, d2, d3, unit)
            e += 4
        while e < end:
            one.gradients[e] += total(_dot(one, e, x, at, step, batch, d0, d1, d2, d3, unit))
            if wanted:
                _spread(one, e, dx, at + dx_shift, step, batch, d0, d1, d2, d3, unit)
            e += 1


@inlined
def _dot(one: Any, e: int, x: Any, at: int, step: int, batch: int, d0: Any, d1: Any, d2: Any, d3: Any, unit: Any) -> Any:
    """Returns the products of a weight's inputs with four units of gradients, added up unit by unit."""
    p = at + np.int64(peek(one.columns, e)) * batch
    g = fma(d1, load(x, p + step, unit), d0 * load(x, p, unit))
    return fma(d3, load(x, p + 3 * step, unit), fma(d2, load(x, p + 2 * step, unit), g))


@inlined
def _spread(one: Any, e: int, dx: Any, at: int, step: int, batch: int, d0: Any, d1: Any, d2: Any, d3: Any, unit: Any) -> None:
    """Adds four units of gradients times a weight to the gradients of its inputs."""
    p = at + np.int64(peek(one.columns, e)) * batch
    w = splat(peek(one.values, e), unit)
    store(dx, p, fma(w, d0, load(dx, p, unit)))
    store(dx, p + step, fma(w, d1, load(dx, p + step, unit)))
    store(dx, p + 2 * step, fma(w, d2, load(dx, p + 2 * step, unit)))
    store(dx, p + 3 * step, fma(w, d3, load(dx, p + 3 * step, unit)))
