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
        self.slots = [(layer, name) for layer in dict.fromkeys(self.layers.values()) for name in layer.tensors]
        self.flat = nn.Parameter(torch.cat([layer.tensors[name].reshape(-1) for layer, name in self.slots]))
        self.weights = [self.flat]
        by_name = {f"{name}.weight": layer for name, layer in self.layers.items() if isinstance(layer, SparseLinear)}
        self.pruned = [by_name[name] for name in problem.shapes]

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...]."""
        self._hand_out(self.flat)
        return self.network(x)  # type: ignore[no-any-return]

    def _hand_out(self, flat: Tensor) -> None:
        """Gives the layers their parts of the one parameter, so that the optimiser has one tensor and autograd one ``cat``."""
        tensors = [layer.tensors[name] for layer, name in self.slots]
        for (layer, name), old, new in zip(self.slots, tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            layer.tensors[name] = new.view(old.shape)

    def mask_gradients(self) -> None:
        """Removed weights have no gradient."""

    def mask_weights(self) -> None:
        """Removed weights are not there."""

    def survivor_sums(self, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
        """Returns sums [K] over each individual's survivors."""
        (values,) = tensors
        self._hand_out(values.detach().to("cpu", torch.float64))
        sums = [[part.numpy().sum() for part in layer.split()] for layer in self.pruned]
        totals: NDArray[np.float64] = np.array(sums, np.float64).sum(axis=0)
        return totals

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the dense ``state_dict`` of individual k."""
        self._hand_out(self.flat.detach())
        state = {name: tensor.clone() for name, tensor in self.dense.items()}
        for prefix, layer in self.layers.items():
            state |= {f"{prefix}.{name}": tensor for name, tensor in layer.individual(k).items()}
        return state

    @torch.no_grad()
    def remove(self, removed: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Removes survivors for good, in the middle of training.

        Args:
            removed: For the one of ``weights``, True where the weight goes; what is not prunable stays.
            optimizer: The optimiser that trains the population; what it remembers of the others is kept.
        """
        kept = []
        self._hand_out(~removed[0])
        for layer, name in self.slots:
            prunable = name == "weight" and layer in self.pruned
            kept.append(layer.tensors[name].reshape(-1) if prunable else torch.ones_like(layer.tensors[name]).reshape(-1))
        for layer in self.pruned:
            layer.keep(layer.tensors["weight"])
        keep = torch.cat(kept)
        memories = optimizer.state[self.flat]
        for name, memory in memories.items():
            if isinstance(memory, Tensor) and memory.shape == keep.shape:
                memories[name] = memory[keep]
        self.flat.data = self.flat.data[keep]
        self.flat.grad = None


class SparseLinear(nn.Module):
    """The linear layers of K individuals as one sparse matrix.

    Args:
        linear: The dense layer, at W0.
        survivors: For each individual, the flat indices of its surviving weights, ascending.
        relu: Apply ReLU to the output, in place.

    Attributes:
        tensors: The surviving values (``weight``), of individual 0, then 1, ..., each row by row; and ``bias`` [K * out].
    """

    def __init__(self, linear: nn.Linear, survivors: Sequence[NDArray[np.int64]], relu: bool) -> None:
        super().__init__()
        self.size, self.shape, self.relu = len(survivors), (linear.out_features, linear.in_features), relu
        self.indices = torch.from_numpy(np.concatenate(survivors)).to(linear.weight.device)
        self.counts = [len(indices) for indices in survivors]
        self.tensors: dict[str, Tensor] = {"weight": linear.weight.detach().reshape(-1)[self.indices]}
        if linear.bias is not None:
            self.tensors["bias"] = linear.bias.detach().repeat(self.size)
        self._pattern: Pattern | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, out] of the shared input [batch, in], or of [K, batch, in]."""
        shared = x.ndim == 2
        if self._pattern is None or self._pattern.shared != shared:
            self._pattern = Pattern(self.indices, self.counts, self.shape, shared)
        columns = x.t().contiguous() if shared else x.transpose(1, 2).reshape(self.size * self.shape[1], -1)
        y: Tensor = Product.apply(columns, self.tensors["weight"], self.tensors.get("bias"), self._pattern, self.relu)  # type: ignore[no-untyped-call]
        return y.view(self.size, self.shape[0], -1).transpose(1, 2)

    def split(self) -> tuple[Tensor, ...]:
        """Returns each individual's values."""
        return torch.split(self.tensors["weight"], self.counts)

    def individual(self, k: int) -> dict[str, Tensor]:
        """Returns the dense parameters of individual k."""
        values = self.split()[k]
        weight = values.new_zeros(self.shape[0] * self.shape[1])
        weight[torch.split(self.indices, self.counts)[k]] = values
        tensors = {"weight": weight.view(self.shape)}
        if "bias" in self.tensors:
            tensors["bias"] = self.tensors["bias"].view(self.size, -1)[k].clone()
        return tensors

    def keep(self, kept: Tensor) -> None:
        """Keeps the survivors for which ``kept`` is true."""
        self.counts = [int(part.sum()) for part in torch.split(kept, self.counts)]
        self.indices = self.indices[kept]
        self.tensors["weight"] = self.tensors["weight"][kept]
        self._pattern = None


class PopulationLayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with each individual's own scale and shift, [K, 1, features]."""

    def __init__(self, norm: nn.LayerNorm, size: int) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.tensors = {name: parameter.detach().repeat(size, 1, 1) for name, parameter in norm.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        """Returns [K, batch, features]."""
        y = F.layer_norm(x, self.shape, eps=self.eps)
        y = y * self.tensors["weight"] if "weight" in self.tensors else y
        return y + self.tensors["bias"] if "bias" in self.tensors else y

    def individual(self, k: int) -> dict[str, Tensor]:
        """Returns the parameters of individual k."""
        return {name: tensor[k, 0].clone() for name, tensor in self.tensors.items()}


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
) -> dict[str, SparseLinear | PopulationLayerNorm]:
    """Puts the population's modules in the place of the network's, and returns those with parameters by name."""
    fused = _fuse_relu(network)
    made: dict[nn.Module, nn.Module] = {}
    layers: dict[str, SparseLinear | PopulationLayerNorm] = {}
    batched = False  # before the first linear layer there is one input, not one for each individual
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module not in made:
            new = module
            if isinstance(module, nn.Linear):
                dense = [np.arange(module.weight.numel())] * size  # a layer that is excluded from pruning
                new = SparseLinear(module, survivors.get(f"{name}.weight", dense), module in fused)
                batched = True
            elif isinstance(module, nn.LayerNorm):
                new = PopulationLayerNorm(module, size)
            elif isinstance(module, nn.Dropout):
                new = SharedDropout(module.p)
            elif isinstance(module, (nn.Flatten, nn.Unflatten)) and batched:
                new = Reshape(module)
            made[module] = new
        if isinstance(made[module], (SparseLinear, PopulationLayerNorm)):
            layers[name] = made[module]  # type: ignore[assignment]
        if made[module] is not module and name:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, made[module])
    return layers


def _fuse_relu(network: nn.Module) -> set[nn.Module]:
    """Takes every ReLU out that follows a linear layer in an ``nn.Sequential``, and returns those linear layers."""
    names = [module for _, module in network.named_modules(remove_duplicate=False)]
    fused: set[nn.Module] = set()
    for container in network.modules():
        if isinstance(container, nn.Sequential):
            for i in range(len(container) - 1):
                linear, relu = container[i], container[i + 1]
                if isinstance(linear, nn.Linear) and type(relu) is nn.ReLU and names.count(linear) == 1:
                    fused.add(linear)
                    container[i + 1] = nn.Identity()
    return fused


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
