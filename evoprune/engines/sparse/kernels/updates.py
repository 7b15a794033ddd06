"""Steps of optimisers, fused with the sums of |g|."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evoprune.engines.sparse.kernels.compiled import compiled


@compiled
def sum_gradients(one: Any) -> None:
    """Adds |g| to the sums."""
    for i in range(len(one.sums)):
        one.sums[i] += abs(one.gradients[i])


@compiled
def sgd(one: Any, lr: float, momentum: float, dampening: float, decay: float, nesterov: bool, started: bool) -> None:
    """One step of SGD as ``torch.optim.SGD`` defines it; sets the gradients to zero."""
    kind = one.values.dtype.type
    values, gradients, memory = one.values, one.gradients, one.first
    rate, mu, kept, wd = kind(lr), kind(momentum), kind(1 - dampening if started else 1), kind(decay)
    if momentum == 0:
        for i in range(len(values)):
            values[i] -= rate * (gradients[i] + wd * values[i])
            gradients[i] = 0
        return
    for i in range(len(values)):
        g = gradients[i] + wd * values[i]
        m = mu * memory[i] + kept * g
        memory[i] = m
        values[i] -= rate * (g + mu * m if nesterov else m)
        gradients[i] = 0


@compiled
def adam(one: Any, lr: float, beta1: float, beta2: float, eps: float, decay: float, decoupled: bool, step: int) -> None:
    """One step of Adam (Kingma & Ba, 2015) or AdamW (Loshchilov & Hutter, 2019), as torch has them; clears the gradients."""
    kind = one.values.dtype.type
    values, gradients, first, second = one.values, one.gradients, one.first, one.second
    correction = math.sqrt(1 - beta2**step)
    rate, root, least = kind(lr / (1 - beta1**step)), kind(1 / correction), kind(eps)
    keep, wd = kind(1 - lr * decay if decoupled else 1), kind(0 if decoupled else decay)
    b1, b2, c1, c2 = kind(beta1), kind(beta2), kind(1 - beta1), kind(1 - beta2)
    for i in range(len(values)):
        v = values[i] * keep
        g = gradients[i] + wd * v
        m = b1 * first[i] + c1 * g
        s = b2 * second[i] + c2 * g * g
        first[i], second[i] = m, s
        values[i] = v - rate * m / (np.sqrt(s) * root + least)
        gradients[i] = 0
