"""Overlap and diversity of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evoprune.masks.bits import layer_slices
from evoprune.masks.mask import Mask

# Masks of which all pairs are compared.
ALL_PAIRS = 128


def layer_counts(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """Returns the survivors [masks, layers] of each layer."""
    slices = layer_slices(masks[0].shapes).values()
    return np.array([[np.count_nonzero(mask.bits[part]) for part in slices] for mask in masks], np.int64)


def expected_iou(a_counts: Sequence[int], b_counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Returns the expected overlap (IoU) of two independent random masks with given survivors in each layer.

    With a_l and b_l survivors of n_l weights, layer l shares a_l b_l / n_l of them on average. The result is the ratio of the
    expectations, E|A and B| / E|A or B|, not the expectation of the ratio; for layers of many weights they hardly differ.

    Args:
        a_counts: Survivors of the one mask, layer by layer.
        b_counts: Survivors of the other.
        sizes: Weights of each layer.

    Returns:
        A number from 0 to 1; NaN if both masks are empty.
    """
    shared = sum(a * b / n for a, b, n in zip(a_counts, b_counts, sizes, strict=True) if n)
    union = sum(a_counts) + sum(b_counts) - shared
    return shared / union if union else math.nan


def chance_diversity(masks: Sequence[Mask]) -> float:
    """Returns the expected diversity of random masks with as many survivors in each layer; NaN for fewer than two.

    Of more than :data:`ALL_PAIRS` masks, the mean is over a part of the pairs; see :func:`pairs_of`.
    """
    if len(masks) < 2:
        return math.nan
    first, second = pairs_of(len(masks))
    counts = layer_counts(masks)
    shared, total = np.zeros(len(first)), counts.sum(1)
    for layer, shape in zip(counts.T, masks[0].shapes.values(), strict=True):
        shared += layer[first] * layer[second] / max(1, math.prod(shape))
    return _one_minus_mean(shared, total[first] + total[second] - shared)


def diversity(masks: Sequence[Mask]) -> float:
    """Returns 1 - the mean pairwise IoU of a population, from 0 (all equal) to 1 (disjoint); NaN for fewer than two.

    Of more than :data:`ALL_PAIRS` masks, the mean is over a part of the pairs; see :func:`pairs_of`.
    """
    if len(masks) < 2:
        return math.nan
    first, second = pairs_of(len(masks))
    sizes = np.array([mask.survivors for mask in masks])
    packed = _packed_common(masks)
    common = np.array([np.bitwise_count(packed[i] & packed[j]).sum() for i, j in zip(first, second, strict=True)], np.float64)
    return _one_minus_mean(common, sizes[first] + sizes[second] - common)


def pairs_of(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the pairs of masks over which a population's overlap is averaged, as two arrays of numbers.

    They are all pairs of up to :data:`ALL_PAIRS` masks. Of more, each mask is paired with :data:`ALL_PAIRS` others at even
    distances in the order of the population, so that the time grows with the number of masks, and not with its square.
    """
    if count <= ALL_PAIRS:
        return np.triu_indices(count, 1)
    steps = np.linspace(1, (count - 1) // 2, ALL_PAIRS // 2).round().astype(np.int64)
    first = np.repeat(np.arange(count), len(steps))
    return first, (first + np.tile(steps, count)) % count


def _packed_common(masks: Sequence[Mask]) -> NDArray[np.uint64]:
    """Returns the bits [masks, words] of the weights that several masks keep: others are in no intersection."""
    one, several = np.zeros_like(masks[0].bits), np.zeros_like(masks[0].bits)
    for mask in masks:
        several |= one & mask.bits
        one |= mask.bits
    where = np.flatnonzero(several)
    packed = np.zeros((len(masks), -(-len(where) // 64) * 8), np.uint8)
    for row, mask in zip(packed, masks, strict=True):
        row[: -(-len(where) // 8)] = np.packbits(mask.bits[where])
    return packed.view(np.uint64)


def _one_minus_mean(common: NDArray[np.float64], union: NDArray[np.float64]) -> float:
    """Returns 1 - the mean IoU of pairs, of which two empty masks have 1."""
    return float(1 - np.divide(common, union, out=np.ones(len(common)), where=union > 0).mean())
