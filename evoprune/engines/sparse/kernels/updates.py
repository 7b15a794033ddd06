"""Steps of optimisers, fused with the sums of |g|."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evoprune.engines.sparse.kernels.codes import SGD
from evoprune.engines.sparse.kernels.compiled import compiled


@compiled
def sum_gradients(one: Any) -> None:
    """Adds |g| to the sums."""
    for i in range(len(one.sums)):
        one.sums[i] += abs(one.gradients[i])


@compiled
def clip(one: Any, norm: float, value: float) -> None:
    """Scales the gradients to a largest norm, or cuts them to a largest absolute value, as ``torch.nn.utils`` does."""
    kind, gradients = one.values.dtype.type, one.gradients
    if value < math.inf:
        low, high = kind(-value), kind(value)
        for i in range(len(gradients)):
            g = gradients[i]
            gradients[i] = low if g < low else high if g > high else g
    if norm < math.inf:
        total = 0.0
        for i in range(len(gradients)):
            total += np.float64(gradients[i]) * np.float64(gradients[i])
        factor = norm / (math.sqrt(total) + 1e-6)
        if not factor >= 1:  # NaN makes all gradients NaN, as in torch
            scale = kind(factor)
            for i in range(len(gradients)):
                gradients[i] *= scale


@compiled
def update(one: Any, first: int, last: int, optimizer: Any, lr: float, decay: float, done: int) -> None:
    """Takes a step for the parameters in some places; sets their gradients to zero."""
    if optimizer.kind == SGD:
        sgd(one, first, last, lr, optimizer.a, optimizer.b, decay, optimizer.flag, done > 0)
    else:
        adam(one, first, last, lr, optimizer.a, optimizer.b, optimizer.eps, decay, optimizer.flag, done + 1)


@compiled
def sgd(
    one: Any, begin: int, end: int, lr: float, momentum: float, dampening: float, decay: float, nesterov: bool, started: bool
) -> None:
    """One step of SGD as ``torch.optim.SGD`` defines it; sets the gradients to zero."""
    kind = one.values.dtype.type
    values, gradients, memory = one.values, one.gradients, one.first
    rate, mu, kept, wd = kind(lr), kind(momentum), kind(1 - dampening if started else 1), kind(decay)
    if momentum == 0:
        for i in range(begin, end):
            values[i] -= rate * (gradients[i] + wd * values[i])
            gradients[i] = 0
        return
    for i in range(begin, end):
        g = gradients[i] + wd * values[i]
        m = mu * memory[i] + kept * g
        memory[i] = m
        values[i] -= rate * (g + mu * m if nesterov else m)
        gradients[i] = 0


@compiled
def adam(
    one: Any, begin: int, end: int, lr: float, beta1: float, beta2: float, eps: float, decay: float, decoupled: bool, step: int
) -> None:
    """One step of Adam (Kingma & Ba, 2015) or AdamW (Loshchilov & Hutter, 2019), as torch has them; clears the gradients."""
    kind = one.values.dtype.type
    values, gradients, first, second = one.values, one.gradients, one.first, one.second
    correction = math.sqrt(1 - beta2**step)
    rate, root, least = kind(lr / (1 - beta1**step)), kind(1 / correction), kind(eps)
    keep, wd = kind(1 - lr * decay if decoupled else 1), kind(0 if decoupled else decay)
    b1, b2, c1, c2 = kind(beta1), kind(beta2), kind(1 - beta1), kind(1 - beta2)
    for i in range(begin, end):
        v = values[i] * keep
        g = gradients[i] + wd * v
        m = b1 * first[i] + c1 * g
        s = b2 * second[i] + c2 * g * g
        first[i], second[i] = m, s
        values[i] = v - rate * m / (np.sqrt(s) * root + least)
        gradients[i] = 0
