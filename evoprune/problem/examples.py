"""Inputs that lie as bytes, in a file or in a data set of the user's, and become what a network takes batch by batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from evoprune.errors import InputError
from evoprune.problem.datasets import Items
from evoprune.problem.filearray import FileArray
from evoprune.problem.recipe import MEASURE_BATCH
from evoprune.problem.walk_values import tensor_bytes

Store: TypeAlias = Tensor | FileArray | Items

# Examples that are read at once where all of them are needed.
PIECE = 4096
# Examples in a batch when networks are measured, not trained, on inputs that are read batch by batch: memory is precious then.
FEW = 250


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs [n, ...] that are read, changed and cast batch by batch; where it matters, they are used like a tensor.

    Attributes:
        store: The inputs as they are stored: a tensor, an array in a file, or items that are read one by one.
        dtype: The type that a batch has.
        rows: The rows of the store that these are, in their order; None for all.
        mean: Subtracted from a batch, by channel [channels, 1, ...]; None leaves it.
        std: A batch is then divided by it.
        device: Where a batch lies.
        where: The name of the inputs in messages.
    """

    store: Store
    dtype: torch.dtype
    rows: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    where: str = "inputs"

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """Number of examples, and the shape of one."""
        return torch.Size([len(self), *self.store.shape[1:]])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.store.shape)

    def numel(self) -> int:
        """Returns the number of values."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Returns the bytes of a value as it is stored, in memory; 0 where it lies in a file."""
        return self.store.element_size() if isinstance(self.store, Tensor) else 0

    def is_floating_point(self) -> bool:
        """Tells whether batches are of a float type."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Tells whether batches are complex."""
        return self.dtype.is_complex

    def index_select(
        self, dim: int, rows: Tensor, change: Callable[[Tensor], Tensor] | None = None, draw: int | None = None
    ) -> Tensor:
        """Returns the examples of some rows.

        Args:
            dim: 0, as of a tensor's method.
            rows: Their numbers [b].
            change: Changes the batch as it is stored, before it is normalised.
            draw: Seeds the reading of items that draw.

        Raises:
            InputError: A value is NaN or infinite.
        """
        assert dim == 0
        raw = self.raw(rows, draw).to(self.device)
        found = raw if change is None else change(raw)
        if self.mean is not None and self.std is not None:
            found = found.float().sub(self.mean).div_(self.std)
        found = found.to(self.dtype)
        if not isinstance(self.store, Tensor):  # tensors are checked once
            _require_finite(found, self.where, rows)
        return found

    def __getitem__(self, key: slice | Tensor) -> Tensor:
        return self.index_select(0, torch.arange(len(self))[key] if isinstance(key, slice) else key)

    def raw(self, rows: Tensor, draw: int | None = None) -> Tensor:
        """Returns the examples of some rows as they are stored, copied into memory; see :meth:`index_select`."""
        rows = rows if self.rows is None else self.rows[rows.cpu()]
        if isinstance(self.store, Tensor):
            return self.store.index_select(0, rows.to(self.store.device))
        return self.store.read(rows.cpu(), draw) if isinstance(self.store, Items) else self.store.read(rows.cpu())

    @property
    def is_drawn(self) -> bool:
        """Tells whether reading draws."""
        return isinstance(self.store, Items)

    def take(self, rows: Tensor) -> Examples:
        """Returns some of the examples, which are not read."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def to(self, to: torch.dtype | torch.device | str) -> Examples:
        """Returns the examples with batches of another type or on another device; a stored tensor moves there as it is."""
        if isinstance(to, torch.dtype):
            return replace(self, dtype=to)
        store = self.store.to(to) if isinstance(self.store, Tensor) else self.store
        mean, std = (None if tensor is None else tensor.to(to) for tensor in (self.mean, self.std))
        return replace(self, store=store, mean=mean, std=std, device=torch.device(to))

    def normalised(self, mean: Tensor, std: Tensor) -> Examples:
        """Returns the examples as float32 that is shifted and scaled.

        Args:
            mean: By channel [channels, 1, ...].
            std: By channel.
        """
        return replace(self, dtype=torch.float32, mean=mean.float(), std=std.float())

    def pieces(self) -> Iterator[Tensor]:
        """Yields the examples as they are stored, some thousands at a time."""
        for start in range(0, len(self), PIECE):
            yield self.raw(torch.arange(start, min(start + PIECE, len(self))))

    @property
    def named_by(self) -> str:
        """How the stored examples are identified; empty for the digest of their content."""
        return "" if isinstance(self.store, Tensor) else self.store.named_by

    def identity(self) -> str:
        """Returns a digest of the stored examples, by content or by name, size and time of their file, and of their cast."""
        digest = hashlib.sha256(f"{tuple(self.shape)} {self.dtype}".encode())
        for values in (self.mean, self.std):
            digest.update(b"" if values is None else tensor_bytes(values))
        if isinstance(self.store, Tensor):
            for piece in self.pieces():
                digest.update(tensor_bytes(piece))
        else:
            digest.update(self.store.identity().encode())
            digest.update(b"" if self.rows is None else tensor_bytes(self.rows))
        return digest.hexdigest()


def inputs_of(store: Store, where: str) -> Examples:
    """Returns a store's inputs as they are."""
    return Examples(store, store.dtype, where=where)


def measure_batch(x: Tensor | Examples) -> int:
    """Returns the number of examples in a batch when networks are measured, not trained."""
    return FEW if isinstance(x, Examples) else MEASURE_BATCH


def _require_finite(values: Tensor, where: str, rows: Tensor) -> None:
    if not values.is_floating_point() or not values.numel():
        return
    if not all(math.isfinite(float(bound)) for bound in values.aminmax()):
        wrong = ~values.isfinite().flatten(1).all(1).cpu()
        row = int(rows.cpu()[int(wrong.to(torch.uint8).argmax())])
        raise InputError(f"{where} have NaN or infinite values in example {row}; remove these examples, or fill them in.")
