"""Evidence for the informed mutation, kept beside a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a mask's own evaluation says about its weights; kept beside the mask, as ``mask.evidence``.

    See :func:`evoprune.evaluation.evidence.take_evidence`. It travels with its mask, into clones, pickles and workers.

    Attributes:
        mask: Hash of the mask that it was taken for.
        still: Indices of survivors, from the one that moved least; only the first few.
        grow: Indices of removed weights, from the one with the largest dense gradient; only the first few.
    """

    mask: str
    still: Indices
    grow: Indices
