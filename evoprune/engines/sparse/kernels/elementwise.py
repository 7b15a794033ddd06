"""Activations, additions and dropout."""

from __future__ import annotations

import math
from typing import Any

from evoprune.engines.sparse.kernels.codes import (
    ELU,
    FRESH,
    GELU,
    GELU_TANH,
    HARDSHRINK,
    HARDSIGMOID,
    HARDSWISH,
    HARDTANH,
    LAST_ON_VECTORS,
    LEAKY,
    LENGTH,
    LIST,
    LOGSIGMOID,
    NOISE_AT,
    RECTIFIED,
    RELU,
    SECOND_FRESH,
    SECOND_WANTED,
    SIGMOID,
    SILU,
    SOFTPLUS,
    SOFTSHRINK,
    SOFTSIGN,
    TANH,
    TANHSHRINK,
    WANTED,
    WHICH,
)  # fmt: skip
from evoprune.engines.sparse.kernels.compiled import compiled, inlined
from evoprune.engines.sparse.kernels.vectors import (
    absolute,
    exponent_limit,
    fma,
    like,
    load,
    rounded,
    splat,
    store,
    times_power_of_two,
    where,
)  # fmt: skip


@inlined
def add(array: Any, i: int, vector: Any, fresh: bool, unit: Any) -> None:
    """Sets elements of an array, or adds to them."""
    store(array, i, vector if fresh else load(array, i, unit) + vector)


@compiled
def clear(array: Any, start: int, end: int, width: int, unit: Any) -> None:
    """Sets elements of an array to zero."""
    zero = splat(array.dtype.type(0), unit)
    for i in range(start, end, width):
        store(array, i, zero)


@inlined
def rectified(x: Any) -> Any:
    """Returns a vector with zero in the place of negative numbers; NaN stays, as in torch."""
    zero = like(0.0, x)
    return where(x < zero, zero, x)


@inlined
def gated(d: Any, y: Any) -> Any:
    """Returns the gradient d behind a ReLU whose input or output is y: zero where that is not positive; NaN passes d on."""
    zero = like(0.0, d)
    return where(y <= zero, zero, d)


@compiled
def exp(x: Any) -> Any:
    """Returns the exponential of a vector, to a unit or two in the last place: 2**n times a Taylor series around 0."""
    limit = exponent_limit(x)
    x = where(x > limit, limit, x)
    limit = like(0.0, x) - limit
    x = where(x < limit, limit, x)
    n = rounded(x * like(1.4426950408889634, x))
    r = fma(n, like(-0.693145751953125, x), x)  # ln 2 in two parts, the first exact in few bits
    r = fma(n, like(-1.42860682030941723212e-6, x), r)
    p = fma(like(1 / 6227020800, x), r, like(1 / 479001600, x))
    p = fma(fma(p, r, like(1 / 39916800, x)), r, like(1 / 3628800, x))
    p = fma(fma(p, r, like(1 / 362880, x)), r, like(1 / 40320, x))
    p = fma(fma(p, r, like(1 / 5040, x)), r, like(1 / 720, x))
    p = fma(fma(p, r, like(1 / 120, x)), r, like(1 / 24, x))
    p = fma(fma(p, r, like(1 / 6, x)), r, like(0.5, x))
    p = fma(fma(p, r, like(1.0, x)), r, like(1.0, x))
    return times_power_of_two(p, n)


@compiled
def sigmoid(x: Any) -> Any:
    """Returns 1 / (1 + exp(-x)) of a vector."""
    one = like(1.0, x)
    return one / (one + exp(like(0.0, x) - x))


@compiled
def tanh(x: Any) -> Any:
    """Returns the hyperbolic tangent of a vector: by a series near zero, where the formula loses digits."""
    one, two, square = like(1.0, x), like(2.0, x), x * x
    p = fma(like(-1382 / 155925, x), square, like(62 / 2835, x))
    p = fma(fma(p, square, like(-17 / 315, x)), square, like(2 / 15, x))
    p = fma(fma(p, square, like(-1 / 3, x)), square, one)
    far = one - two / (one + exp(two * x))
    return where(absolute(x) < like(0.1, x), p * x, far)


@compiled
def vector_activation(which: int, x: Any, a: float) -> Any:
    """Returns an activation of a vector."""
    if which == RECTIFIED:
        return rectified(x)
    if which == LEAKY:
        return where(x > like(0.0, x), x, x * like(a, x))
    if which == SIGMOID:
        return sigmoid(x)
    if which == TANH:
        return tanh(x)
    if which == SILU:
        return x * sigmoid(x)
    return x


@compiled
def vector_derivative(which: int, x: Any, y: Any, a: float) -> Any:
    """Returns the derivative of an activation y of a vector x."""
    one = like(1.0, x)
    if which == RECTIFIED:
        return gated(one, x)
    if which == LEAKY:
        return where(x > like(0.0, x), one, like(a, x))
    if which == SIGMOID:
        return y * (one - y)
    if which == TANH:
        return one - y * y
    if which == SILU:
        s = sigmoid(x)
        return fma(y, one - s, s)
    return one


@compiled
def softplus(x: float) -> float:
    """Returns log(1 + exp(x))."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@compiled
def clipped(x: float, low: float, high: float) -> float:
    """Returns the nearest number between two bounds; NaN stays."""
    return low if x < low else (high if x > high else x)


@compiled
def activation(which: int, x: float, a: float, b: float) -> float:
    """Returns an activation of a number; see :data:`evoprune.engines.sparse.modules.ACTIVATIONS` for a and b."""
    if which == ELU:
        return x if x > 0 else a * math.expm1(x / b)
    if which == HARDTANH:
        return clipped(x, a, b)
    if which == HARDSIGMOID:
        return clipped(x / 6 + 0.5, 0.0, 1.0)
    if which == HARDSWISH:
        return x * clipped(x / 6 + 0.5, 0.0, 1.0)
    if which == HARDSHRINK:
        return 0.0 if abs(x) <= a else x
    if which == SOFTSHRINK:
        return 0.0 if abs(x) <= a else x - math.copysign(a, x)
    if which == SOFTSIGN:
        return x / (1 + abs(x))
    if which == TANHSHRINK:
        return x - math.tanh(x)
    if which == GELU:
        return 0.5 * x * (1 + math.erf(x * math.sqrt(0.5)))
    if which == GELU_TANH:
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    if which == SOFTPLUS:
        return x if x * a > b else softplus(x * a) / a
    if which == LOGSIGMOID:
        return -softplus(-x)
    return x * math.tanh(softplus(x))  # Mish


@compiled
def derivative(which: int, x: float, a: float, b: float) -> float:
    """Returns the derivative of an activation of a number."""
    if which == ELU:
        return 1.0 if x > 0 else a / b * math.exp(x / b)
    if which == HARDTANH:
        return 0.0 if x <= a or x >= b else 1.0
    if which == HARDSIGMOID:
        return 1 / 6 if -3 < x < 3 else 0.0
    if which == HARDSWISH:
        return 0.0 if x <= -3 else (1.0 if x >= 3 else x / 3 + 0.5)
    if which in (HARDSHRINK, SOFTSHRINK):
        return 0.0 if abs(x) <= a else 1.0
    if which == SOFTSIGN:
        return 1 / ((1 + abs(x)) * (1 + abs(x)))
    if which == TANHSHRINK:
        return math.tanh(x) ** 2
    if which == GELU:
        return 0.5 * (1 + math.erf(x * math.sqrt(0.5))) + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    if which == GELU_TANH:
        c = math.sqrt(2 / math.pi)
        t = math.tanh(c * (x + 0.044715 * x * x * x))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)
    if which == SOFTPLUS:
        return 1.0 if x * a > b else 1 / (1 + math.exp(-x * a))
    if which == LOGSIGMOID:
        return 1 / (1 + math.exp(x))
    t = math.tanh(softplus(x))
    return t + x * (1 - t * t) / (1 + math.exp(-x))  # Mish


@compiled
def activation_forward(
    op: Any, numbers: Any, tables: Any, x: Any, x_base: int, y: Any, y_base: int, batch: int, width: int, unit: Any
) -> None:
    """Sets y to the activation of x."""
    which, a, b = op[WHICH], numbers[0], numbers[1]
    for i in range(op[LENGTH]):
        run = op[LIST] + 3 * i
        p, q = x_base + tables[run] * batch, y_base + tables[run + 1] * batch
        n = tables[run + 2] * batch
        if which <= LAST_ON_VECTORS:
            for j in range(0, n, width):
                store(y, q + j, vector_activation(which, load(x, p + j, unit), a))
        else:
            for j in range(n):
                y[q + j] = activation(which, float(x[p + j]), a, b)


@compiled
def activation_backward(
    op: Any, numbers: Any, tables: Any, x: Any, x_base: int, dx: Any, dx_shift: int, y: Any, dy: Any, dy_shift: int,
    y_base: int, batch: int, width: int, unit: Any,
) -> None:  # fmt: skip
    """Sets dx to dy times the derivative, or adds it."""
    if not op[WANTED]:
        return
    which, a, b, fresh = op[WHICH], numbers[0], numbers[1], op[FRESH]
    for i in range(op[LENGTH]):
        run = op[LIST] + 3 * i
        p, q = x_base + tables[run] * batch, y_base + tables[run + 1] * batch
        n = tables[run + 2] * batch
        if which <= LAST_ON_VECTORS:
            for j in range(0, n, width):
                d = load(dy, q + dy_shift + j, unit) * vector_derivative(which, load(x, p + j, unit), load(y, q + j, unit), a)
                add(dx, p + dx_shift + j, d, fresh, unit)
        else:
            for j in range(n):
                d_one = dy[q + dy_shift + j] * derivative(which, float(x[p + j]), a, b)
                to = p + dx_shift + j
                dx[to] = d_one if fresh else dx[to] + d_one


@compiled
def addition_forward(
    op: Any,
    tables: Any,
    x: Any,
    x_base: int,
    other: Any,
    other_base: int,
    y: Any,
    y_base: int,
    batch: int,
    width: int,
    unit: Any,
) -> None:
    """Sets y to the sum of two values, and to zero below zero if ReLU follows."""
    for i in range(op[LENGTH]):
        run = op[LIST] + 4 * i
        p, o = x_base + tables[run] * batch, other_base + tables[run + 1] * batch
        q, n = y_base + tables[run + 2] * batch, tables[run + 3] * batch
        for j in range(0, n, width):
            s = load(x, p + j, unit) + load(other, o + j, unit)
            if op[RELU]:
                s = rectified(s)
            store(y, q + j, s)


@compiled
def addition_backward(
    op: Any, tables: Any, x_base: int, other_base: int, dx: Any, dx_shift: int, other_shift: int, y: Any, dy: Any,
    dy_shift: int, y_base: int, batch: int, width: int, unit: Any,
) -> None:  # fmt: skip
    """Sets the gradients of both terms to dy, or adds it."""
    for i in range(op[LENGTH]):
        run = op[LIST] + 4 * i
        p, o = x_base + tables[run] * batch, other_base + tables[run + 1] * batch
        q, n = y_base + tables[run + 2] * batch, tables[run + 3] * batch
        for j in range(0, n, width):
            d = load(dy, q + dy_shift + j, unit)
            if op[RELU]:
                d = gated(d, load(y, q + j, unit))
            if op[WANTED]:
                add(dx, p + dx_shift + j, d, op[FRESH], unit)
            if op[SECOND_WANTED]:
                add(dx, o + other_shift + j, d, op[SECOND_FRESH], unit)


@compiled
def noise_forward(
    op: Any,
    tables: Any,
    noise: Any,
    noise_base: int,
    training: bool,
    x: Any,
    x_base: int,
    y: Any,
    y_base: int,
    batch: int,
    width: int,
    unit: Any,
) -> None:
    """Sets y to x, in training times dropout's noise."""
    at = noise_base + op[NOISE_AT] * batch
    for i in range(op[LENGTH]):
        run = op[LIST] + 3 * i
        p, q = x_base + tables[run] * batch, y_base + tables[run + 1] * batch
        n = tables[run + 2] * batch
        for j in range(0, n, width):
            v = load(x, p + j, unit)
            store(y, q + j, v * load(noise, at + j, unit) if training else v)
        at += n


@compiled
def noise_backward(
    op: Any,
    tables: Any,
    noise: Any,
    noise_base: int,
    training: bool,
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
    """Sets dx to dy times dropout's noise, or adds it."""
    if not op[WANTED]:
        return
    at = noise_base + op[NOISE_AT] * batch
    for i in range(op[LENGTH]):
        run = op[LIST] + 3 * i
        p, q = x_base + tables[run] * batch, y_base + tables[run + 1] * batch
        n = tables[run + 2] * batch
        for j in range(0, n, width):
            d = load(dy, q + dy_shift + j, unit)
            d = d * load(noise, at + j, unit) if training else d
            add(dx, p + dx_shift + j, d, op[FRESH], unit)
        at += n
