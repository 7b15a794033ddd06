"""The ``sparse`` engine: a population of p-sparse networks is itself one sparse network.

Each linear layer of all K individuals is one block-diagonal sparse matrix, whose surviving values are the parameter; the layers
that read the shared input are stacked instead, [K * out, in]. Work and memory grow with the survivors, not with the dense size.

Activations look like [K, batch, features] to the network's own code, and lie in memory as [K, features, batch], which is what
the products want; elementwise operations keep that layout.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        self.size = len(masks)
        self.network = nn.Sequential(problem.network())  # a parent to put modules into; all names begin with "0."
        self.dense = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        survivors: dict[str, list[NDArray[np.int64]]] = {f"0.{name}": [] for name in problem.shapes}
        for mask in masks:  # one after another: their dense layers are never all in memory
            mask.require(problem.shapes)
            for name, layer in mask.layers.items():
                survivors[f"0.{name}"].append(np.flatnonzero(layer))
        self.layers, self.owners = _replace_modules(self.network, survivors, self.size)
        self.vector = nn.Parameter(torch.cat([owner.initial() for owner in self.owners]))
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

    def survivor_sums(self, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
        """Returns sums [K] over each individual's survivors."""
        values = self.prunable_values(tensors[0].detach().to("cpu", torch.float64))
        sums = [[part.numpy().sum() for part in parts] for parts in values.values()]
        totals: NDArray[np.float64] = np.array(sums, np.float64).sum(axis=0)
        return totals

    def prunable_values(self, vector: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Returns what a tensor like the one of ``weights`` has for the survivors: by layer, for each individual."""
        parts, found = self._parts(vector), {}
        for name in self.prunable:
            layer = self.layers[name]
            assert isinstance(layer, Layer)
            found[name] = torch.split(layer.parts(parts[name])[0], layer.counts)
        return found

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the dense ``state_dict`` of individual k."""
        state = {name: tensor.clone() for name, tensor in self.dense.items()}
        for prefix, part in self._parts(self.vector.detach()).items():
            state |= {f"{prefix}.{name}": tensor for name, tensor in self.layers[prefix].individual(part, k).items()}
        return {name.removeprefix("0."): tensor for name, tensor in state.items()}

    @torch.no_grad()
    def remove(self, removed: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Removes survivors for good, in the middle of training.

        Args:
            removed: For the one of ``weights``, True where the weight goes; what is not prunable stays.
            optimizer: The optimiser that trains the population; what it remembers of the others is kept.
        """
        kept = torch.ones_like(removed[0])
        for values, gone in zip(self.prunable_values(kept).values(), self.prunable_values(removed[0]).values(), strict=True):
            for value, go in zip(values, gone, strict=True):
                value.logical_and_(~go)  # a view of ``kept``
        staying = {name: torch.cat(values) for name, values in self.prunable_values(kept).items()}
        for name, keep in staying.items():
            layer = self.layers[name]
            assert isinstance(layer, Layer)
            layer.keep(keep)
        memories = optimizer.state[self.vector]
        for name, memory in memories.items():
            if isinstance(memory, Tensor) and memory.shape == kept.shape:
                memories[name] = memory[kept]
        self.vector.data = self.vector.data[kept]
        self.vector.grad = None


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

    def initial(self) -> Tensor:
        """Returns the parameters at W0."""
        return torch.cat([layer.initial() for layer in self.layers])

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
        self.given = {name: parameter.detach() for name, parameter in norm.named_parameters()}

    @property
    def length(self) -> int:
        """Number of parameters."""
        return len(self.given) * self.size * self.shape[0]

    def initial(self) -> Tensor:
        """Returns the parameters at the start."""
        return torch.cat([torch.empty(0), *(parameter.repeat(self.size) for parameter in self.given.values())])

    def parts(self, vector: Tensor) -> dict[Any, Tensor]:
        """Returns the module's own part: all of it."""
        return {self: vector}

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, features]."""
        y = F.layer_norm(x, self.shape, eps=self.eps)
        if not self.given:
            return y
        tensors = dict(zip(self.given, self.vector.view(len(self.given), self.size, 1, -1), strict=True))
        y = y * tensors["weight"] if "weight" in tensors else y
        return y + tensors["bias"] if "bias" in tensors else y

    def individual(self, vector: Tensor, k: int) -> dict[str, Tensor]:
        """Returns the parameters of individual k."""
        tensors = vector.view(len(self.given), self.size, self.shape[0])
        return {name: tensor[k].clone() for name, tensor in zip(self.given, tensors, strict=True)}


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
