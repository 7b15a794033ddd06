"""One individual of the sparse engine: its vector of parameters, and where their inputs lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.engines.sparse.trace import Network
from evoprune.masks.mask import Mask


class Individual:
    """A masked network: the vector of its parameters, in which a prunable weight has its survivors only.

    Args:
        network: The network as a program.
        shapes: Shape of each parameter, by name.
        mask: The mask.
        state: The dense ``state_dict`` to begin with.

    Attributes:
        vector: The parameters, in the order of their names.
        indices: For each prunable weight the flat indices of its survivors, ascending.
    """

    def __init__(self, network: Network, shapes: Mapping[str, torch.Size], mask: Mask, state: Mapping[str, Tensor]) -> None:
        self.network, self.shapes = network, shapes
        self.buffers, self.counts = read_buffers(network, state)
        self._set_mask(mask)
        self.vector = nn.Parameter(self.pack(state))

    def _set_mask(self, mask: Mask) -> None:
        """Sets indices, and the places that the kernels read, from a mask."""
        self.indices = {name: np.flatnonzero(layer) for name, layer in mask.layers.items()}
        self.starts, self.columns, self.pointers = lay_out(self.network, self.shapes, self.indices)

    @property
    def work(self) -> int:
        """Multiply-adds of an example's forward pass."""
        starts, products = self.starts, self.network.products.values()
        return sum(int(starts[p.parameter + 1] - starts[p.parameter]) * p.positions for p in products)

    def addresses(self, memory: tuple[Tensor | None, Tensor | None] | None, sums: Tensor | None) -> list[int]:
        """Returns the individual's row in a table of individuals; 0 stands for an array that is not needed."""
        first, second = memory or (None, None)
        tensors = [0 if tensor is None else tensor.data_ptr() for tensor in (self.vector, first, second, sums)]
        arrays = (self.columns, self.starts, self.pointers, self.buffers, self.counts)
        return [*tensors, *(array.ctypes.data for array in arrays), len(self.columns)]

    def pack(self, dense: Mapping[str, Tensor]) -> Tensor:
        """Returns the vector of dense parameters."""
        parts = []
        for name in self.shapes:
            flat = dense[name].detach().reshape(-1)
            parts.append(flat[torch.from_numpy(self.indices[name])] if name in self.indices else flat)
        return torch.cat(parts)

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """Returns dense parameters from a vector."""
        dense = {}
        for (name, shape), start, end in zip(self.shapes.items(), self.starts[:-1], self.starts[1:], strict=True):
            part = vector[start:end]
            if name in self.indices:
                flat = vector.new_zeros(shape.numel())
                flat[torch.from_numpy(self.indices[name])] = part
            else:
                flat = part.clone()
            dense[name] = flat.view(shape)
        return dense

    def survivors(self, vector: Tensor) -> Tensor:
        """Returns the survivors' part of a vector."""
        parts = zip(self.shapes, self.starts[:-1], self.starts[1:], strict=True)
        return torch.cat([vector[start:end] for name, start, end in parts if name in self.indices])

    def set_mask(self, mask: Mask) -> Tensor:
        """Replaces the mask, and lets the vector's parameters follow; those that grow are zero.

        Returns:
            For each place of the new vector its place in the old one; -1 for weights that grow.
        """
        indices, starts = self.indices, self.starts
        self._set_mask(mask)
        parts = []
        for i, name in enumerate(self.shapes):
            length = int(starts[i + 1] - starts[i])
            if name in indices:
                place = np.searchsorted(indices[name], self.indices[name])
                padded = np.append(indices[name], -1)
                parts.append(np.where(padded[place] == self.indices[name], starts[i] + place, -1))
            else:
                parts.append(np.arange(starts[i], starts[i] + length))
        source = torch.from_numpy(np.concatenate(parts))
        self.vector.data = rearranged(self.vector.data, source)
        self.vector.grad = None
        return source


def lay_out(
    network: Network, shapes: Mapping[str, torch.Size], indices: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Returns how a vector of parameters lies, as the kernels read it.

    Args:
        network: The network as a program.
        shapes: Shape of each parameter, by name.
        indices: The flat indices of the survivors of each pruned weight, ascending.

    Returns:
        Where each parameter begins; for each weight of a product its input's place; and where each row of a product begins.
    """
    lengths = [len(indices[name]) if name in indices else shape.numel() for name, shape in shapes.items()]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = np.zeros(starts[-1], np.int32)
    products = network.products.values()
    pointers = np.zeros(sum(len(product.shift) + 1 for product in products), np.int32)
    for product in products:
        name, start = network.names[product.parameter], starts[product.parameter]
        fan, rows = len(product.columns), len(product.shift)
        flat = indices.get(name)
        flat = np.arange(fan * rows) if flat is None else flat
        row = flat // fan
        columns[start : start + len(flat)] = product.columns[flat % fan] + product.shift[row]
        ends = np.searchsorted(row, np.arange(rows + 1))
        pointers[product.pointers : product.pointers + rows + 1] = start + ends
    return starts, columns, pointers


def rearranged(tensor: Tensor, source: Tensor) -> Tensor:
    """Returns the elements of a vector at some places; zero at -1."""
    return F.pad(tensor, (0, 1))[source]


def joined(module: str, name: str) -> str:
    """Returns a tensor's name in a ``state_dict``, from its module's; the network itself has the empty name."""
    return f"{module}.{name}" if module else name


def read_buffers(network: Network, state: Mapping[str, Tensor]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns running means and variances, module by module, and the counters, from a ``state_dict``."""
    kinds = [state[joined(name, kind)] for name, _ in network.norms for kind in ("running_mean", "running_var")]
    values = torch.cat(kinds).numpy().copy() if kinds else np.zeros(0, np.float32)
    counts = [int(state[joined(name, "num_batches_tracked")]) for name, _ in network.norms]
    return values, np.array(counts, np.int64)


def write_buffers(network: Network, buffers: NDArray[Any], counts: NDArray[np.int64]) -> dict[str, Tensor]:
    """Returns the entries of a ``state_dict`` for running statistics and counters."""
    found, start = {}, 0
    for i, (name, module) in enumerate(network.norms):
        channels = int(module.num_features)  # type: ignore[arg-type]
        for kind in ("running_mean", "running_var"):
            found[joined(name, kind)] = torch.from_numpy(buffers[start : start + channels].copy())
            start += channels
        found[joined(name, "num_batches_tracked")] = torch.tensor(int(counts[i]))
    return found
