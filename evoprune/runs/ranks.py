"""Correlation of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns Spearman's rho of two sequences, neither of them constant; equal values share the mean of their ranks.

    ``scipy.stats.spearmanr`` gives the same number, but importing it takes a second.

    Example:
        >>> spearman([1.0, 2.0, 3.0], [0.1, 0.3, 0.2])
        0.5
    """
    rho = np.corrcoef(np.column_stack([_ranks(x), _ranks(y)]), rowvar=False)
    return float(np.asarray(rho)[1, 0])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[places]
    return ranks
