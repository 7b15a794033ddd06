"""Evidence for the informed mutation, kept beside a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The findings of a mask's own evaluation about its weights; kept beside the mask, as ``mask.evidence``.

    See :func:`evoprune.evaluation.evidence.take_evidence`. It travels with its mask, into clones, pickles and workers.

    Attributes:
        mask: Hash of the mask that was evaluated.
        still: Indices of the first few survivors, beginning with the one that moved least.
        grow: Indices of the first few removed weights, beginning with the one of the largest dense gradient.
    """

    mask: str
    still: Indices
    grow: Indices
