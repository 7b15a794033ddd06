"""Random p-sparse masks: the number of survivors, their shares of the layers, and their positions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError, look_up
from evoprune.masks.mask import Mask

LAYER_DENSITIES = ("uniform", "erk", "varied")

# Standard deviation of the logarithm of a layer's density factor under "varied".
VARIATION = 0.5


def survivors_of(sparsity: float, n: int) -> int:
    """Returns how many of n weights a mask of this sparsity keeps: ``round((1 - sparsity) * n)``.

    Raises:
        InputError: The sparsity lies outside [0, 1), or is so high that no weight is left.
    """
    if not 0 <= sparsity < 1:
        raise InputError(
            f"sparsity is {sparsity}; expected the fraction of weights to remove, at least 0 and below 1, such as 0.9."
        )
    count = round((1 - sparsity) * n)
    if count == 0:
        raise InputError(f"sparsity {sparsity} keeps none of {n} weights; expected at most {1 - 1 / n:.6f}.")
    return count


def layer_survivors(
    shapes: Mapping[str, tuple[int, ...]],
    sparsity: float,
    layer_densities: str = "erk",
    rng: np.random.Generator | None = None,
) -> dict[str, int]:
    """Returns how many weights survive in each layer; their sum is exact.

    Args:
        shapes: Shape by parameter name.
        sparsity: Fraction of all prunable weights to remove.
        layer_densities: ``uniform``: the same density everywhere. ``erk`` (Erdős-Rényi-Kernel; Mocanu et al. 2018,
            Evci et al. 2020, section 3): density proportional to the sum of a weight's dimensions over their product.
            ``varied``: ERK's densities, each times exp(0.5 z) with z standard normal, drawn anew in each call. Densities
            above one are cut to one, and the others are scaled up until the total holds.
        rng: Source of the draws, for ``varied``.

    Raises:
        InputError: An unknown name, a sparsity out of range, or ``varied`` without ``rng``.
    """
    if layer_densities not in LAYER_DENSITIES:
        look_up("layer densities", layer_densities, dict.fromkeys(LAYER_DENSITIES))
    sizes = np.array([math.prod(shape) for shape in shapes.values()])
    total = survivors_of(sparsity, int(sizes.sum()))
    raw = np.array([1.0 if layer_densities == "uniform" else sum(s) / math.prod(s) for s in shapes.values()])
    if layer_densities == "varied":
        if rng is None:
            raise InputError("layer densities 'varied' are drawn; give rng, a numpy.random.Generator.")
        raw = raw * np.exp(VARIATION * rng.standard_normal(len(raw)))
    return dict(zip(shapes, apportion(raw, sizes, total).tolist(), strict=True))


def random_mask(
    shapes: Mapping[str, tuple[int, ...]],
    sparsity: float,
    rng: np.random.Generator,
    layer_densities: str = "erk",
) -> Mask:
    """Returns a random mask that keeps exactly ``round((1 - sparsity) * n)`` weights.

    Args:
        shapes: Shape of the prunable weights by name, as in ``problem.shapes``.
        sparsity: Fraction of the weights to remove, in [0, 1).
        rng: Source of the draws.
        layer_densities: See :func:`layer_survivors`.
    """
    counts = layer_survivors(shapes, sparsity, layer_densities, rng)
    layers = {}
    for name, shape in shapes.items():
        flat = np.zeros(math.prod(shape), bool)
        flat[rng.choice(flat.size, counts[name], replace=False, shuffle=False)] = True
        layers[name] = flat.reshape(shape)
    return Mask.from_layers(layers)


def apportion(raw: NDArray[np.float64], sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Scales densities to a total, with none above one, and rounds by largest remainder."""
    full = np.zeros(len(raw), bool)
    while True:
        left = total - sizes[full].sum()
        density = np.where(full, 1.0, raw * left / max((raw * sizes)[~full].sum(), 1e-300))
        over = (density > 1) & ~full
        if not over.any():
            break
        full |= over
    exact = density * sizes
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    for i in np.resize(order, len(order) * 2):
        if counts.sum() == total:
            break
        counts[i] += counts[i] < sizes[i]
    return counts
