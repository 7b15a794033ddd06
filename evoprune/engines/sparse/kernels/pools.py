"""Pooling: the maximum or the average of windows, each a list of places."""

from __future__ import annotations

from typing import Any

from evoprune.engines.sparse.kernels.codes import (
    FRESH,
    HIGH,
    LENGTH,
    LIST,
    LOW,
    PLANES,
    WANTED,
    X_FIRST,
    X_STEP,
    Y_FIRST,
    Y_STEP,
)  # fmt: skip
from evoprune.engines.sparse.kernels.compiled import compiled
from evoprune.engines.sparse.kernels.elementwise import clear
from evoprune.engines.sparse.kernels.vectors import like, load, store, where

# A window in the list: the place of its output, its number of inputs, its divisor, and as many places.


@compiled
def maximum_forward(op: Any, tables: Any, x: Any, x_base: int, y: Any, y_base: int, batch: int, width: int, unit: Any) -> None:
    """Sets y to the maximum of each window."""
    for c in range(op[PLANES]):
        p, q = x_base + (op[X_FIRST] + c * op[X_STEP]) * batch, y_base + (op[Y_FIRST] + c * op[Y_STEP]) * batch
        at = op[LIST]
        for _ in range(op[LENGTH]):
            for j in range(0, batch, width):
                best = load(x, p + tables[at + 3] * batch + j, unit)
                for k in range(at + 4, at + 3 + tables[at + 1]):
                    v = load(x, p + tables[k] * batch + j, unit)
                    best = where(best < v, v, best)
                    best = where(v == v, best, v)  # a NaN wins, whether it is the first or a later one
                store(y, q + tables[at] * batch + j, best)
            at += 3 + tables[at + 1]


@compiled
def maximum_backward(
    op: Any,
    tables: Any,
    x: Any,
    x_base: int,
    dx: Any,
    dx_shift: int,
    y: Any,
    dy: Any,
    dy_shift: int,
    y_base: int,
    batch: int,
    width: int,
    unit: Any,
) -> None:
    """Adds dy to the gradient of the first maximum of each window."""
    if not op[WANTED]:
        return
    if op[FRESH]:
        clear(dx, x_base + dx_shift + op[LOW] * batch, x_base + dx_shift + op[HIGH] * batch, width, unit)
    for c in range(op[PLANES]):
        p, q = x_base + (op[X_FIRST] + c * op[X_STEP]) * batch, y_base + (op[Y_FIRST] + c * op[Y_STEP]) * batch
        at = op[LIST]
        for _ in range(op[LENGTH]):
            for j in range(0, batch, width):
                best = load(y, q + tables[at] * batch + j, unit)
                d = load(dy, q + dy_shift + tables[at] * batch + j, unit)
                for k in range(at + 3, at + 3 + tables[at + 1]):
                    i = p + tables[k] * batch + j
                    v, zero = load(x, i, unit), like(0.0, d)
                    given = where(v == v, where(v == best, d, zero), d)  # NaN is the maximum where there is one
                    store(dx, i + dx_shift, load(dx, i + dx_shift, unit) + given)
                    d = where(v == v, where(v == best, zero, d), zero)
            at += 3 + tables[at + 1]


@compiled
def average_forward(op: Any, tables: Any, x: Any, x_base: int, y: Any, y_base: int, batch: int, width: int, unit: Any) -> None:
    """Sets y to the sum of each window over its divisor."""
    for c in range(op[PLANES]):
        p, q = x_base + (op[X_FIRST] + c * op[X_STEP]) * batch, y_base + (op[Y_FIRST] + c * op[Y_STEP]) * batch
        at = op[LIST]
        for _ in range(op[LENGTH]):
            for j in range(0, batch, width):
                s = like(0.0, load(x, p, unit))
                for k in range(at + 3, at + 3 + tables[at + 1]):
                    s = s + load(x, p + tables[k] * batch + j, unit)
                store(y, q + tables[at] * batch + j, s * like(1.0 / tables[at + 2], s))
            at += 3 + tables[at + 1]


@compiled
def average_backward(
    op: Any,
    tables: Any,
    x_base: int,
    dx: Any,
    dx_shift: int,
    dy: Any,
    dy_shift: int,
    y_base: int,
    batch: int,
    width: int,
    unit: Any,
) -> None:
    """Adds dy over the divisor to the gradients of each window."""
    if not op[WANTED]:
        return
    if op[FRESH]:
        clear(dx, x_base + dx_shift + op[LOW] * batch, x_base + dx_shift + op[HIGH] * batch, width, unit)
    for c in range(op[PLANES]):
        p, q = x_base + (op[X_FIRST] + c * op[X_STEP]) * batch, y_base + (op[Y_FIRST] + c * op[Y_STEP]) * batch
        at = op[LIST]
        for _ in range(op[LENGTH]):
            for j in range(0, batch, width):
                d = load(dy, q + dy_shift + tables[at] * batch + j, unit)
                d = d * like(1.0 / tables[at + 2], d)
                for k in range(at + 3, at + 3 + tables[at + 1]):
                    i = p + dx_shift + tables[k] * batch + j
                    store(dx, i, load(dx, i, unit) + d)
            at += 3 + tables[at + 1]
