"""The ``sparse`` engine: a population of p-sparse networks is itself one sparse network.

Each linear layer of all K individuals is one block-diagonal sparse matrix, whose surviving values are the parameter; the layers
that read the shared input are stacked instead, [K * out, in]. Work and memory grow with the survivors, not with the dense size.

Activations look like [K, batch, features] to the network's own code, and lie in memory as [K, features, batch], the
layout that the products need; elementwise operations keep that layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.engines.sparse.convert import replace_modules, require_supported
from evoprune.engines.sparse.csr import Layer, hear_the_beta_warning
from evoprune.engines.sparse.layers import PopulationLayerNorm
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem


class SparsePopulation(nn.Module):
    """K masked networks as one sparse network; see :class:`evoprune.engines.population.Population`.

    Args:
        problem: The problem; training starts from its W0.
        masks: The masks.

    Raises:
        InputError: A mask that does not fit, or a network, optimiser or build of torch that the engine cannot serve.
    """

    def __init__(self, problem: Problem, masks: Sequence[Mask]) -> None:
        super().__init__()
        require_supported(problem)
        hear_the_beta_warning()
        self.size, self.masks = len(masks), list(masks)
        self.network = nn.Sequential(problem.network())  # a parent to put modules into; all names begin with "0."
        self.dense = {n.removeprefix("0."): t.detach().clone() for n, t in self.network.state_dict().items()}
        for mask in masks:
            mask.require(problem.shapes)
        survivors = _survivors_of(masks)
        self.layers, self.owners = replace_modules(self.network, survivors, self.size)
        self.vector = nn.Parameter(self.pack([self.dense] * self.size)[0])
        self.weights = [self.vector]
        self.prunable = [name.rpartition(".")[0] for name in survivors]

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...]."""
        for owner, part in zip(self.owners, self._split(self.vector), strict=True):
            owner.vector = part
        return self.network(x)  # type: ignore[no-any-return]

    def _split(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Returns each owner's part of a vector of all parameters."""
        return (vector,) if len(self.owners) == 1 else torch.split(vector, [owner.length for owner in self.owners])

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        """Returns each layer's part of a vector of all parameters, by the layer's name in the network."""
        parts = self._layer_parts(vector)
        return {name: parts[layer] for name, layer in self.layers.items()}

    def _layer_parts(self, vector: Tensor) -> dict[Layer | PopulationLayerNorm, Tensor]:
        """Returns each layer's part of a vector of all parameters, in their order."""
        parts: dict[Layer | PopulationLayerNorm, Tensor] = {}
        for owner, part in zip(self.owners, self._split(vector), strict=True):
            parts |= owner.parts(part)
        return parts

    def mask_gradients(self) -> None:
        """Removed weights have no gradient."""

    def mask_weights(self) -> None:
        """Removed weights are not there."""

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the survivors' values."""
        return torch.cat([values[k] for values in self._prunable_values(tensors[0].detach())])

    def _prunable_values(self, vector: Tensor) -> list[tuple[Tensor, ...]]:
        """Returns views of the survivors' values in a vector: a tuple over the individuals for each prunable layer."""
        parts, found = self._parts(vector), []
        for name in self.prunable:
            layer = self.layers[name]
            assert isinstance(layer, Layer)
            found.append(torch.split(layer.parts(parts[name])[0], layer.counts))
        return found

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the dense ``state_dict`` of individual k."""
        return {name: tensor.clone() for name, tensor in self.dense.items()} | self.unpack(k, [self.vector.detach()])

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Sets the parameters; there are no buffers."""
        (self.vector.data,) = self.pack(states)

    def unpack(self, k: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the part of individual k in the one vector, by the parameters' names."""
        dense = {}
        for name, part in self._parts(tensors[0]).items():
            for kind, tensor in self.layers[name].unpack(k, part).items():
                dense[f"{name}.{kind}".removeprefix("0.")] = tensor
        return dense

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Returns the one vector."""
        names = {layer: name for name, layer in reversed(self.layers.items())}  # the first of several
        parts = []
        for layer in (layer for owner in self.owners for layer in owner.layers):
            keys = {kind: f"{names[layer]}.{kind}".removeprefix("0.") for kind in layer.kinds}
            parts.append(layer.pack([{kind: tensors[key] for kind, key in keys.items()} for tensors in dense]))
        return [torch.cat(parts)]

    @torch.no_grad()
    def set_masks(
        self, masks: Sequence[Mask], optimizer: torch.optim.Optimizer, carried: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Replaces the masks: the vector, and the optimiser's memory of it, get another length."""
        survivors = {self.layers[name.rpartition(".")[0]]: indices for name, indices in _survivors_of(masks).items()}
        before = self.vector.shape
        parts = self._layer_parts(torch.arange(len(self.vector), device=self.vector.device))
        source = torch.cat(
            [
                layer.set_survivors(survivors[layer], part) if isinstance(layer, Layer) and layer in survivors else part
                for layer, part in parts.items()
            ]
        )

        def rearrange(tensor: Tensor) -> Tensor:
            return F.pad(tensor, (0, 1))[source]  # -1 takes the zero at the end

        memories = optimizer.state[self.vector]
        for name, memory in memories.items():
            if isinstance(memory, Tensor) and memory.shape == before:
                memories[name] = rearrange(memory)
        self.vector.data = rearrange(self.vector.data)
        self.vector.grad = None
        if len(self.owners) > 1:  # else the part is the vector itself
            for owner in self.owners:
                owner.vector = self.vector.data[:0]  # the last part's graph would hold on to the vector's old length
        self.masks = list(masks)
        return [rearrange(tensor) for tensor in carried]


def _survivors_of(masks: Sequence[Mask]) -> dict[str, list[NDArray[np.int64]]]:
    """Returns the flat indices of the survivors of each individual, by the weight's name in the population's network."""
    survivors: dict[str, list[NDArray[np.int64]]] = {f"0.{name}": [] for name in masks[0].shapes}
    for mask in masks:  # one after another: their dense layers are never all in memory
        for name, layer in mask.layers.items():
            survivors[f"0.{name}"].append(np.flatnonzero(layer))
    return survivors
