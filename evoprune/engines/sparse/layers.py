"""The modules of the sparse engine's population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.engines.sparse.csr import Chain, Layer


class SparseChain(nn.Module):
    """Sparse layers one after another.

    Attributes:
        vector: Their parameters, as the population hands them out.
    """

    vector: Tensor

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = layers

    @property
    def length(self) -> int:
        """Number of parameters."""
        return sum(layer.length for layer in self.layers)

    def parts(self, vector: Tensor) -> dict[Any, Tensor]:
        """Returns the layers' parts of a vector of the parameters."""
        return dict(zip(self.layers, torch.split(vector, [layer.length for layer in self.layers]), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, out] of the shared input [batch, in], or of [K, batch, in]."""
        first, last = self.layers[0], self.layers[-1]
        shared = x.ndim == 2
        columns = x.t().contiguous() if shared else x.transpose(1, 2).reshape(first.size * first.shape[1], -1)
        y: Tensor = Chain.apply(columns, self.vector, self.layers, shared)  # type: ignore[no-untyped-call]
        return y.view(last.size, last.shape[0], -1).transpose(1, 2)


class PopulationLayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with each individual's own scale and shift.

    Attributes:
        vector: Those parameters, as the population hands them out: scales [K, features], then shifts [K, features].
    """

    vector: Tensor

    def __init__(self, norm: nn.LayerNorm, size: int) -> None:
        super().__init__()
        self.size, self.shape, self.eps = size, norm.normalized_shape, norm.eps
        self.kinds = [name for name, _ in norm.named_parameters()]
        self.layers = [self]

    @property
    def length(self) -> int:
        """Number of parameters."""
        return len(self.kinds) * self.size * self.shape[0]

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Returns the parameters, from each individual's."""
        return torch.cat([torch.empty(0), *(tensors[kind] for kind in self.kinds for tensors in dense)])

    def parts(self, vector: Tensor) -> dict[Any, Tensor]:
        """Returns the module's part: all of the vector."""
        return {self: vector}

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, features]."""
        y = F.layer_norm(x, self.shape, eps=self.eps)
        if not self.kinds:
            return y
        tensors = dict(zip(self.kinds, self.vector.view(len(self.kinds), self.size, 1, -1), strict=True))
        y = y * tensors["weight"] if "weight" in tensors else y
        return y + tensors["bias"] if "bias" in tensors else y

    def unpack(self, k: int, vector: Tensor) -> dict[str, Tensor]:
        """Returns the parameters of individual k."""
        tensors = vector.view(len(self.kinds), self.size, self.shape[0])
        return {kind: tensor[k].clone() for kind, tensor in zip(self.kinds, tensors, strict=True)}


class SharedDropout(nn.Module):
    """Dropout whose noise all individuals share, drawn as the reference engine draws it.

    Args:
        p: Probability of a zero.
        batched: The input is [K, batch, ...], not the shared [batch, ...].
    """

    def __init__(self, p: float, batched: bool) -> None:
        super().__init__()
        self.p, self.batched = p, batched

    def forward(self, x: Tensor) -> Tensor:
        """Returns the input's shape."""
        if not self.training:
            return x
        return x * F.dropout(x.new_ones(x.shape[1:] if self.batched else x.shape), self.p)


class Reshape(nn.Module):
    """``Flatten`` or ``Unflatten`` behind the individuals' dimension."""

    def __init__(self, reshape: nn.Module) -> None:
        super().__init__()
        self.reshape = reshape

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, ...]."""
        size, batch = x.shape[:2]
        y: Tensor = self.reshape(x.reshape(size * batch, *x.shape[2:]))
        return y.view(size, batch, *y.shape[1:])
