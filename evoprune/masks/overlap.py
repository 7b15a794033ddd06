"""Overlap and diversity of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from evoprune.masks.bits import layer_slices
from evoprune.masks.mask import Mask


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
    """Returns the expected diversity of random masks with as many survivors in each layer; NaN for fewer than two."""
    if len(masks) < 2:
        return math.nan
    counts = layer_counts(masks).tolist()
    sizes = [math.prod(shape) for shape in masks[0].shapes.values()]
    expected = [expected_iou(a, b, sizes) for a, b in combinations(counts, 2)]
    return float(1 - np.mean([1.0 if math.isnan(iou) else iou for iou in expected]))


def diversity(masks: Sequence[Mask]) -> float:
    """Returns 1 - the mean pairwise IoU of a population, from 0 (all equal) to 1 (disjoint); NaN for fewer than two."""
    if len(masks) < 2:
        return math.nan
    bits = np.stack([mask.bits for mask in masks]).astype(np.float32)
    common = (bits @ bits.T).astype(np.float64)
    sizes = np.diagonal(common)
    union = sizes[:, None] + sizes[None, :] - common
    iou = np.divide(common, union, out=np.ones_like(common), where=union > 0)
    return float(1 - iou[np.triu_indices(len(masks), 1)].mean())
