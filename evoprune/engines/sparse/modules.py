"""Modules and functions that the sparse engine knows, each as operations of the kernels."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evoprune.engines.sparse.kernels import codes
from evoprune.engines.sparse.kernels.codes import (
    ELU,
    GELU,
    GELU_TANH,
    HARDSHRINK,
    HARDSIGMOID,
    HARDSWISH,
    HARDTANH,
    LEAKY,
    LOGSIGMOID,
    MISH,
    RECTIFIED,
    SIGMOID,
    SILU,
    SOFTPLUS,
    SOFTSHRINK,
    SOFTSIGN,
    TANH,
    TANHSHRINK,
)  # fmt: skip
from evoprune.engines.sparse.layout import Value, runs, windows
from evoprune.errors import InputError

if TYPE_CHECKING:
    from evoprune.engines.sparse.program import Builder

# For each activation, its number and the two constants that it takes.
ACTIVATIONS: dict[type[nn.Module], Callable[[Any], tuple[int, float, float]]] = {
    nn.ReLU: lambda m: (RECTIFIED, 0.0, 0.0),
    nn.ReLU6: lambda m: (HARDTANH, 0.0, 6.0),
    nn.LeakyReLU: lambda m: (LEAKY, m.negative_slope, 0.0),
    nn.Sigmoid: lambda m: (SIGMOID, 0.0, 0.0),
    nn.Tanh: lambda m: (TANH, 0.0, 0.0),
    nn.SiLU: lambda m: (SILU, 0.0, 0.0),
    nn.ELU: lambda m: (ELU, m.alpha, 1.0),
    nn.CELU: lambda m: (ELU, m.alpha, m.alpha),
    nn.Hardtanh: lambda m: (HARDTANH, m.min_val, m.max_val),
    nn.Hardsigmoid: lambda m: (HARDSIGMOID, 0.0, 0.0),
    nn.Hardswish: lambda m: (HARDSWISH, 0.0, 0.0),
    nn.Hardshrink: lambda m: (HARDSHRINK, m.lambd, 0.0),
    nn.Softshrink: lambda m: (SOFTSHRINK, m.lambd, 0.0),
    nn.Softsign: lambda m: (SOFTSIGN, 0.0, 0.0),
    nn.Tanhshrink: lambda m: (TANHSHRINK, 0.0, 0.0),
    nn.GELU: lambda m: (GELU_TANH if m.approximate == "tanh" else GELU, 0.0, 0.0),
    nn.Softplus: lambda m: (SOFTPLUS, m.beta, m.threshold),
    nn.LogSigmoid: lambda m: (LOGSIGMOID, 0.0, 0.0),
    nn.Mish: lambda m: (MISH, 0.0, 0.0),
}
FUNCTIONS_AS_MODULES: dict[Any, type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU, torch.relu_: nn.ReLU,
    F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU, F.gelu: nn.GELU, F.silu: nn.SiLU, F.mish: nn.Mish,
    F.softplus: nn.Softplus, F.hardtanh: nn.Hardtanh, F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    F.max_pool1d: nn.MaxPool1d, F.max_pool2d: nn.MaxPool2d, F.max_pool3d: nn.MaxPool3d,
    F.avg_pool1d: nn.AvgPool1d, F.avg_pool2d: nn.AvgPool2d, F.avg_pool3d: nn.AvgPool3d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d, F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_avg_pool3d: nn.AdaptiveAvgPool3d, F.adaptive_max_pool1d: nn.AdaptiveMaxPool1d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d, F.adaptive_max_pool3d: nn.AdaptiveMaxPool3d,
}  # fmt: skip
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NOISES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# Functions, and methods by name, whose result has the features of their input, in the same order.
RESHAPES = (
    torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "view", "reshape", "flatten", "unflatten", "contiguous",
    "squeeze", "unsqueeze",
)  # fmt: skip
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
MEANS = (torch.mean, "mean")


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * n


def linear(builder: Builder, module: nn.Linear, x: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
    """A linear layer on the last dimension: a product at each position."""
    rows = x.places.reshape(-1, module.in_features)
    column_of = rows[0] - rows[0, 0]
    if not (rows - rows[:, :1] == column_of).all():
        x = builder.copied(x, ())
        rows = x.places.reshape(-1, module.in_features)
        column_of = rows[0] - rows[0, 0]
    y = builder.allocate(shape, ())
    first = y.places.reshape(-1, module.out_features)[:, 0]
    listed = [number for a, b in zip(rows[:, 0].tolist(), first.tolist(), strict=True) for number in (a, b, 1, 1)]
    shift = np.zeros(module.out_features, np.int64)
    return builder.product(module, x, y, listed, 1, column_of, shift)


def convolution(builder: Builder, module: Any, x: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
    """A convolution: a product at each position of its output; the padding's zeros lie around the input."""
    if module.padding_mode != "zeros":
        raise InputError(f"pads by {module.padding_mode!r}, and the engine 'sparse' by zeros only")
    n = len(module.kernel_size)
    left, widest = padding_of(module)
    steps = x.steps()
    enough = not any(widest) or (len(x.halo) == n and all(a >= b for a, b in zip(x.halo, widest, strict=True)))
    if steps is None or not enough:
        x = builder.copied(x, widest)
        steps = x.steps()
    assert steps is not None
    channel_step, along = steps[0], steps[1:]
    # a dimension of length one has no step: the zeros around it do
    whole = [size + 2 * width for size, width in zip(x.places.shape[1:], x.halo or (0,) * n, strict=True)]
    along = tuple(step or math.prod(whole[d + 1 :]) for d, step in enumerate(along))
    y = builder.allocate(shape, halo)
    y_first = y.places[0]
    y_steps = y.places[1].flat[0] - y.places[0].flat[0] if len(y.places) > 1 else 0
    kernel = np.indices(module.kernel_size).reshape(n, -1)
    within = sum(kernel[d] * module.dilation[d] * along[d] for d in range(n))
    inputs = module.in_channels // module.groups
    column_of = (np.arange(inputs)[:, None] * channel_step + within).reshape(-1)
    shift = np.arange(module.out_channels) // (module.out_channels // module.groups) * inputs * channel_step
    listed: list[int] = []
    for outer in np.ndindex(*y_first.shape[:-1]):
        position = (*outer, 0)
        base = x.start + sum((i * s - p) * step for i, s, p, step in zip(position, module.stride, left, along, strict=True))
        listed += builder.units(int(base), int(y_first[position]), y_first.shape[-1], module.stride[-1] * along[-1])
    return builder.product(module, x, y, listed, int(y_steps), column_of, shift)


def padding_of(module: Any) -> tuple[list[int], list[int]]:
    """Returns the padding of a convolution before the first position, and the wider of both sides, of each dimension."""
    both = list(module._reversed_padding_repeated_twice)  # the last dimension first; left, right
    sides = [(both[i], both[i + 1]) for i in range(0, len(both), 2)][::-1]
    return [a for a, _ in sides], [max(side) for side in sides]


def batch_norm(builder: Builder, module: Any, x: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
    """Batch normalisation: channels are the first dimension."""
    y = builder.allocate(shape, halo)
    pointers: list[int] = []
    listed: list[int] = []
    for a, b in zip(x.places, y.places, strict=True):
        pointers.append(len(listed))
        listed += runs(np.atleast_1d(a), np.atleast_1d(b))
    pointers.append(len(listed))
    return builder.batch_norm(module, x, y, pointers, listed)


def layer_norm(builder: Builder, module: nn.LayerNorm, x: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
    """Layer normalisation over the last dimensions."""
    y = builder.allocate(shape, ())
    features = math.prod(module.normalized_shape)
    listed = np.column_stack([x.places.reshape(-1), y.places.reshape(-1)]).reshape(-1).tolist()
    return builder.layer_norm(module, x, y, listed, x.places.size // features, features)


def dropout(builder: Builder, module: Any, x: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
    """Dropout, with noise that is drawn as the module draws it."""
    return x if module.p == 0 else builder.noise(module, x, builder.allocate(shape, halo))


def pool(builder: Builder, module: Any, x: Value, shape: Sequence[int], halo: Sequence[int]) -> Value:
    """Pooling over windows."""
    sizes = x.places.shape[1:]
    n = len(sizes)
    name = type(module).__name__
    if name.startswith("Adaptive"):
        spans = [[_adaptive(i, size, out) for i in range(out)] for size, out in zip(sizes, shape[1:], strict=True)]
    else:
        kernel = _tuple(module.kernel_size, n)
        stride, padding = _tuple(module.stride, n), _tuple(module.padding, n)
        dilation = _tuple(getattr(module, "dilation", 1), n)
        spans = [
            [
                (range(i * stride[d] - padding[d], i * stride[d] - padding[d] + kernel[d] * dilation[d], dilation[d]),
                 min(i * stride[d] - padding[d] + kernel[d], sizes[d] + padding[d]) - (i * stride[d] - padding[d]))
                for i in range(shape[1 + d])
            ]
            for d in range(n)
        ]  # fmt: skip
    is_maximum = "Max" in name
    if is_maximum and getattr(module, "return_indices", False):
        raise InputError("returns indices, which the engine 'sparse' does not follow")
    found = windows(sizes, spans)
    if not is_maximum and not getattr(module, "count_include_pad", True):
        found = [(inside, len(inside)) for inside, _ in found]
    if divisor := getattr(module, "divisor_override", None):
        found = [(inside, divisor) for inside, _ in found]
    return pooled(builder, x, shape, halo, found, is_maximum)


def _adaptive(i: int, size: int, out: int) -> tuple[range, int]:
    span = range(i * size // out, -(-(i + 1) * size // out))
    return span, len(span)


def pooled(
    builder: Builder, x: Value, shape: Sequence[int], halo: Sequence[int], found: Sequence[tuple[list[tuple[int, ...]], int]],
    is_maximum: bool,
) -> Value:  # fmt: skip
    """Pools the windows of each channel."""
    flat = x.places.reshape(len(x.places), -1)
    if not (flat - flat[:, :1] == flat[0] - flat[0, 0]).all() or len(set(np.diff(flat[:, 0]).tolist())) > 1:
        x = builder.copied(x, ())
    y = builder.allocate(shape, halo)
    first, to = x.places[0], y.places[0].reshape(-1).tolist()
    listed = []
    for (inside, divisor), place in zip(found, to, strict=True):
        listed += [place - y.start, len(inside), divisor, *(int(first[i]) - x.start for i in inside)]
    x_step, y_step = (int(v.places[1].flat[0] - v.places[0].flat[0]) if len(v.places) > 1 else 0 for v in (x, y))
    return builder.pool(
        codes.MAXIMUM if is_maximum else codes.AVERAGE, x, y, listed, len(found), (len(x.places), x_step, y_step)
    )


def mean(builder: Builder, x: Value, dims: Sequence[int], shape: Sequence[int], halo: Sequence[int]) -> Value:
    """The mean over all dimensions behind the channels: pooling of one window."""
    n = x.places.ndim
    if sorted(d % (n + 1) for d in dims) != list(range(2, n + 1)):
        raise InputError("is a mean over other dimensions than all behind the channels")
    inside = list(np.ndindex(*x.places.shape[1:]))
    y = pooled(builder, x, (len(x.places), 1), (), [(inside, len(inside))], False)
    return y.reshaped(shape)


Handler = Callable[["Builder", Any, Value, Sequence[int], Sequence[int]], Value]
MODULES: dict[type[nn.Module], Handler] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), batch_norm),
    **dict.fromkeys(NOISES, dropout),
    **dict.fromkeys(
        (
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
        ),
        pool,
    ),
}  # fmt: skip
