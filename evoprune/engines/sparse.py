"""The ``sparse`` engine: a population of p-sparse networks is itself one sparse network.

Each linear layer of all K individuals is one block-diagonal sparse matrix, whose surviving values are the parameter; the layers
that read the shared input are stacked instead, [K * out, in]. Work and memory grow with the survivors, not with the dense size.

Activations look like [K, batch, features] to the network's own code, and lie in memory as [K, features, batch], which is what
the products want; elementwise operations keep that layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.engines.csr import Pattern, Product, hear_the_beta_warning
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
        self.network = problem.network()
        self.dense = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        survivors: dict[str, list[NDArray[np.int64]]] = {name: [] for name in problem.shapes}
        for mask in masks:  # one after another: their dense layers are never all in memory
            mask.require(problem.shapes)
            for name, layer in mask.layers.items():
                survivors[name].append(np.flatnonzero(layer))
        self.layers = _replace_modules(self.network, survivors, self.size)
        by_name = {f"{name}.weight": layer for name, layer in self.layers.items() if isinstance(layer, SparseLinear)}
        self.pruned = [by_name[name] for name in problem.shapes]
        self.weights = [layer.values for layer in self.pruned]

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...]."""
        return self.network(x)  # type: ignore[no-any-return]

    def mask_gradients(self) -> None:
        """Removed weights have no gradient."""

    def mask_weights(self) -> None:
        """Removed weights are not there."""

    def survivor_sums(self, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
        """Returns sums [K] over each individual's survivors."""
        totals = np.zeros(self.size)
        for tensor, layer in zip(tensors, self.pruned, strict=True):
            values = tensor.detach().cpu().numpy().astype(np.float64)
            totals += [values[start:stop].sum() for start, stop in layer.spans]
        return totals

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the dense ``state_dict`` of individual k."""
        state = {name: tensor.clone() for name, tensor in self.dense.items()}
        for prefix, layer in self.layers.items():
            state |= {f"{prefix}.{name}": tensor for name, tensor in layer.individual(k).items()}
        return state

    @torch.no_grad()
    def remove(self, removed: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Removes survivors for good, in the middle of training.

        Args:
            removed: For each of ``weights``, True where the weight goes.
            optimizer: The optimiser that trains the population; what it remembers of the others is kept.
        """
        for layer, gone in zip(self.pruned, removed, strict=True):
            layer.keep(~gone, optimizer)


class SparseLinear(nn.Module):
    """The linear layers of K individuals as one sparse matrix.

    Args:
        weight: W0 of the dense layer, [out, in].
        bias: Its bias [out], or None.
        survivors: For each individual, the flat indices of its surviving weights, ascending.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, survivors: Sequence[NDArray[np.int64]]) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.size = len(survivors)
        self.flat = torch.from_numpy(np.concatenate(survivors)).to(weight.device)
        self.counts = [len(indices) for indices in survivors]
        self.values = nn.Parameter(weight.detach().reshape(-1)[self.flat])
        self.bias = None if bias is None else nn.Parameter(bias.detach().repeat(self.size))
        self._pattern: Pattern | None = None

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each individual's values."""
        ends = np.cumsum(self.counts).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, out] of the shared input [batch, in], or of [K, batch, in]."""
        shared = x.ndim == 2
        if self._pattern is None or self._pattern.shared != shared:
            self._pattern = Pattern(self.flat, self.counts, (self.out_features, self.in_features), shared)
        columns = x.t().contiguous() if shared else x.transpose(1, 2).reshape(self.size * self.in_features, -1)
        y: Tensor = Product.apply(columns, self.values, self.bias, self._pattern)  # type: ignore[no-untyped-call]
        return y.view(self.size, self.out_features, -1).transpose(1, 2)

    def individual(self, k: int) -> dict[str, Tensor]:
        """Returns the dense parameters of individual k."""
        start, stop = self.spans[k]
        weight = self.values.new_zeros(self.out_features * self.in_features)
        weight[self.flat[start:stop]] = self.values.detach()[start:stop]
        tensors = {"weight": weight.view(self.out_features, self.in_features)}
        if self.bias is not None:
            tensors["bias"] = self.bias.detach().view(self.size, -1)[k].clone()
        return tensors

    def keep(self, kept: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Keeps some of the values, and what the optimiser remembers of them."""
        self.counts = [int(kept[start:stop].sum()) for start, stop in self.spans]
        state = optimizer.state[self.values]
        for name, memory in state.items():
            if isinstance(memory, Tensor) and memory.shape == self.values.shape:
                state[name] = memory[kept]
        self.values.data = self.values.data[kept]
        self.values.grad = None
        self.flat = self.flat[kept]
        self._pattern = None


class PopulationLayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with scale and shift of each individual."""

    def __init__(self, norm: nn.LayerNorm, size: int) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight = None if norm.weight is None else nn.Parameter(norm.weight.detach().repeat(size, 1, 1))
        self.bias = None if norm.bias is None else nn.Parameter(norm.bias.detach().repeat(size, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, features]."""
        y = F.layer_norm(x, self.shape, eps=self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def individual(self, k: int) -> dict[str, Tensor]:
        """Returns the parameters of individual k."""
        return {name: p.detach()[k, 0].clone() for name, p in self.named_parameters()}


class SharedDropout(nn.Module):
    """Dropout whose noise all individuals share, drawn as the reference engine draws it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Returns the input's shape."""
        if not self.training:
            return x
        return x * F.dropout(torch.ones(x.shape[-2:], dtype=x.dtype, device=x.device), self.p)

    def individual(self, k: int) -> dict[str, Tensor]:
        """Has no parameters."""
        return {}


class Reshape(nn.Module):
    """``Flatten`` or ``Unflatten`` behind the individuals' dimension."""

    def __init__(self, reshape: nn.Flatten | nn.Unflatten) -> None:
        super().__init__()
        self.reshape = reshape

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, ...]."""
        size, batch = x.shape[:2]
        y: Tensor = self.reshape(x.reshape(size * batch, *x.shape[2:]))
        return y.view(size, batch, *y.shape[1:])

    def individual(self, k: int) -> dict[str, Tensor]:
        """Has no parameters."""
        return {}


def _replace_modules(
    network: nn.Module, survivors: dict[str, list[NDArray[np.int64]]], size: int
) -> dict[str, SparseLinear | PopulationLayerNorm | SharedDropout | Reshape]:
    """Puts the population's modules in the place of the network's, and returns them by name."""
    replacements: dict[str, SparseLinear | PopulationLayerNorm | SharedDropout | Reshape] = {}
    made: dict[int, SparseLinear | PopulationLayerNorm | SharedDropout | Reshape] = {}
    batched = False  # before the first linear layer there is one input, not one for each individual
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if id(module) not in made:
            if isinstance(module, nn.Linear):
                dense = [np.arange(module.weight.numel())] * size  # a layer that is excluded from pruning
                made[id(module)] = SparseLinear(module.weight, module.bias, survivors.get(f"{name}.weight", dense))
                batched = True
            elif isinstance(module, nn.LayerNorm):
                made[id(module)] = PopulationLayerNorm(module, size)
            elif type(module) is nn.Dropout:
                made[id(module)] = SharedDropout(module.p)
            elif isinstance(module, (nn.Flatten, nn.Unflatten)) and batched:
                made[id(module)] = Reshape(module)
        if id(module) in made:
            parent, _, child = name.rpartition(".")
            replacements[name] = made[id(module)]
            if name:
                setattr(network.get_submodule(parent), child, made[id(module)])
    return replacements


def _require_supported(problem: Problem) -> None:
    if problem.device == "cpu" and not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        raise InputError("this build of torch has no MKL, whose sparse products the engine 'sparse' needs; use 'module'.")
    for name, module in problem.network().named_modules():
        what = f"{name or 'the network'} is {type(module).__name__}; the engine 'sparse'"
        leaf = next(module.children(), None) is None
        if isinstance(module, PRUNABLE_MODULES) and not isinstance(module, nn.Linear):
            raise InputError(f"{what} has no convolutions yet. Use the engine 'module' or 'stacked'.")
        if leaf and type(module) not in SUPPORTED:
            raise InputError(
                f"{what} serves linear layers, layer normalisation over the last dimension, dropout, flattening and "
                f"elementwise activations. Use the engine 'module' or 'stacked'."
            )
        if type(module) is nn.LayerNorm and len(module.normalized_shape) != 1:
            raise InputError(f"{what} normalises over the last dimension only. Use the engine 'module' or 'stacked'.")
        if not leaf and [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise InputError(f"{what} cannot stack parameters of its own. Use the engine 'module' or 'stacked'.")
