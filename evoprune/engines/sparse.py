"""The ``sparse`` engine: a population of p-sparse networks is itself one sparse network.

Each linear layer of all K individuals is one block-diagonal sparse matrix, whose surviving values are the parameter; the layers
that read the shared input are stacked instead, [K * out, in]. Work and memory grow with the survivors, not with the dense size.

Activations look like [K, batch, features] to the network's own code, and lie in memory as [K, features, batch], which is what
the products want; elementwise operations keep that layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.engines.csr import Chain, Layer, hear_the_beta_warning
from evoprune.errors import InputError
from evoprune.mask import Mask
from evoprune.models import PRUNABLE_MODULES
from evoprune.problem import Problem

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink,
)  # fmt: skip
# Their kernels round alike wherever in a vector an element lies; those of GELU or sigmoid do not.
ROUND_ALIKE = (nn.Sequential, nn.Linear, nn.ReLU, nn.Flatten, nn.Identity)
SUPPORTED = (*ELEMENTWISE, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Flatten, nn.Unflatten)


class SparsePopulation(nn.Module):
    """K masked networks as one sparse network; see :class:`evoprune.engines.Population`.

    Args:
        problem: The problem; training starts from its W0.
        masks: The masks.

    Raises:
        InputError: A mask that does not fit, or a network, optimiser or build of torch that the engine cannot serve.
    """

    def __init__(self, problem: Problem, masks: Sequence[Mask]) -> None:
        super().__init__()
        _require_supported(problem)
        hear_the_beta_warning()
        self.size, self.masks = len(masks), list(masks)
        self.network = nn.Sequential(problem.network())  # a parent to put modules into; all names begin with "0."
        self.dense = {n.removeprefix("0."): t.detach().clone() for n, t in self.network.state_dict().items()}
        survivors: dict[str, list[NDArray[np.int64]]] = {f"0.{name}": [] for name in problem.shapes}
        for mask in masks:  # one after another: their dense layers are never all in memory
            mask.require(problem.shapes)
            for name, layer in mask.layers.items():
                survivors[f"0.{name}"].append(np.flatnonzero(layer))
        self.layers, self.owners = _replace_modules(self.network, survivors, self.size)
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
        parts: dict[Layer | PopulationLayerNorm, Tensor] = {}
        for owner, part in zip(self.owners, self._split(vector), strict=True):
            parts |= owner.parts(part)
        return {name: parts[layer] for name, layer in self.layers.items()}

    def mask_gradients(self) -> None:
        """Removed weights have no gradient."""

    def mask_weights(self) -> None:
        """Removed weights are not there."""

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the survivors' values."""
        return torch.cat([values[k] for values in self._prunable_values(tensors[0].detach())])

    def _prunable_values(self, vector: Tensor) -> list[tuple[Tensor, ...]]:
        """Returns views of what a vector has for the survivors: a tuple over the individuals for each prunable layer."""
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
        """Returns what the one vector has for individual k, by the parameters' names."""
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
    def keep(self, masks: Sequence[Mask], optimizer: torch.optim.Optimizer) -> list[Any]:
        """Removes survivors for good: the vector, and what the optimiser remembers of it, become shorter."""
        kept = torch.ones_like(self.vector, dtype=torch.bool)
        for k, (before, now) in enumerate(zip(self.masks, masks, strict=True)):
            stays = torch.from_numpy(now.bits[before.bits]).to(kept.device)
            values = [values[k] for values in self._prunable_values(kept)]
            for value, stay in zip(values, torch.split(stays, [len(value) for value in values]), strict=True):
                value.copy_(stay)  # a view of ``kept``
        for name, parts in zip(self.prunable, self._prunable_values(kept), strict=True):
            layer = self.layers[name]
            assert isinstance(layer, Layer)
            layer.keep(torch.cat(parts))
        memories = optimizer.state[self.vector]
        for name, memory in memories.items():
            if isinstance(memory, Tensor) and memory.shape == kept.shape:
                memories[name] = memory[kept]
        self.vector.data = self.vector.data[kept]
        self.vector.grad = None
        if len(self.owners) > 1:  # else the part is the vector itself
            for owner in self.owners:
                owner.vector = self.vector.data[:0]  # the last part's graph would hold on to the vector's old length
        self.masks = list(masks)
        return [kept]


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
        vector: Those parameters, as the population hands them out: scales [K, features], then shifts likewise.
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
        """Returns the module's own part: all of it."""
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


def _replace_modules(
    network: nn.Module, survivors: dict[str, list[NDArray[np.int64]]], size: int
) -> tuple[dict[str, Layer | PopulationLayerNorm], list[SparseChain | PopulationLayerNorm]]:
    """Puts the population's modules in the place of the network's.

    Returns:
        What has parameters, by the name that it had in the network, and the modules that own them.
    """
    chains = _chains(network)
    made: dict[nn.Module, nn.Module] = {}
    layers: dict[str, Layer | PopulationLayerNorm] = {}
    linears: dict[nn.Module, Layer] = {}
    batched = False  # before the first linear layer there is one input, not one for each individual
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Linear):
            if module not in made:
                dense = [np.arange(module.weight.numel())] * size  # a layer that is excluded from pruning
                head, relu = chains.get(module, (module, False))
                linears[module] = layer = Layer(module, survivors.get(f"{name}.weight", dense), relu)
                made[module] = SparseChain([]) if head is module else nn.Identity()
                chain = made[head]
                assert isinstance(chain, SparseChain)
                chain.layers.append(layer)
            layers[name] = linears[module]
            batched = True
        elif isinstance(module, nn.LayerNorm):
            made.setdefault(module, PopulationLayerNorm(module, size))
            layers[name] = made[module]  # type: ignore[assignment]
            batched = batched or module.elementwise_affine
        elif isinstance(module, nn.Dropout):
            made.setdefault(module, SharedDropout(module.p, batched))
        elif isinstance(module, (nn.Flatten, nn.Unflatten)) and batched:
            made.setdefault(module, Reshape(module))
        if module in made:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, made[module])
    return layers, [owner for owner in made.values() if isinstance(owner, (SparseChain, PopulationLayerNorm))]


def _chains(network: nn.Module) -> dict[nn.Module, tuple[nn.Module, bool]]:
    """Finds linear layers that follow one another in an ``nn.Sequential``, and takes out a ReLU behind each.

    Returns:
        For each such linear layer, the first of its chain, and whether ReLU follows.
    """
    everywhere = [module for _, module in network.named_modules(remove_duplicate=False)]
    chains: dict[nn.Module, tuple[nn.Module, bool]] = {}
    for container in [module for module in network.modules() if type(module) is nn.Sequential]:
        head: nn.Module | None = None
        for i, module in enumerate(container):
            if isinstance(module, nn.Linear) and everywhere.count(module) == 1:
                relu = i + 1 < len(container) and type(container[i + 1]) is nn.ReLU
                head = head or module
                chains[module] = (head, relu)
                if relu:
                    container[i + 1] = nn.Identity()
            elif not isinstance(container[i], nn.Identity):
                head = None
    return chains


def company_changes_no_bit(problem: Problem) -> bool:
    """Tells whether it is known that an individual has the same bits alone and beside others, however many."""
    return problem.loss_name == "cross-entropy" and all(type(module) in ROUND_ALIKE for module in problem.network().modules())


def _require_supported(problem: Problem) -> None:
    if problem.device == "cpu" and not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        raise InputError("this build of torch has no MKL, whose sparse products the engine 'sparse' needs; use 'module'.")
    for name, module in problem.network().named_modules():
        what = f"{name or 'the network'} is {type(module).__name__}; the engine 'sparse'"
        leaf = next(module.children(), None) is None
        if isinstance(module, PRUNABLE_MODULES) and type(module) is not nn.Linear:
            raise InputError(f"{what} has no convolutions yet, nor kinds of nn.Linear. Use the engine 'module' or 'stacked'.")
        if leaf and type(module) not in SUPPORTED:
            raise InputError(
                f"{what} serves linear layers, layer normalisation over the last dimension, dropout, flattening and "
                f"elementwise activations. Use the engine 'module' or 'stacked'."
            )
        if type(module) is nn.LayerNorm and len(module.normalized_shape) != 1:
            raise InputError(f"{what} normalises over the last dimension only. Use the engine 'module' or 'stacked'.")
        if not leaf and [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise InputError(f"{what} cannot stack parameters of its own. Use the engine 'module' or 'stacked'.")
