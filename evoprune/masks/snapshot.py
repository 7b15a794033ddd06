"""A network in the middle of its training, kept beside its mask, so that a child can continue from it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network in the middle of its training; kept beside its mask, as ``mask.snapshot``.

    It travels with its mask, into clones, pickles and workers. See :func:`evoprune.engines.snapshot.take_snapshot`.

    Attributes:
        mask: Hash of the mask that it was trained with.
        epochs: Epochs of the recipe that it was trained for.
        tensors: The mask's packed bits, the surviving weights, other parameters and buffers, and the optimiser's memory.
        history: The rows of its epochs, as in ``history.csv``.
    """

    mask: str
    epochs: int
    tensors: Mapping[str, Tensor]
    history: Sequence[Mapping[str, Any]] = ()

    @functools.cached_property
    def digest(self) -> str:
        """A hash of everything that the next epochs depend on, in hex."""
        digest = hashlib.sha256(f"{self.mask} {self.epochs}".encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:32]

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields, from which the same snapshot can be made."""
        return {"mask": self.mask, "epochs": self.epochs, "tensors": dict(self.tensors), "history": list(self.history)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Snapshot:
        return self  # nothing changes it
