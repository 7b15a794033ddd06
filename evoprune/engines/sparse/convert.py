"""Converting a network's modules to those of the sparse engine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evoprune.engines.sparse.csr import Layer
from evoprune.engines.sparse.layers import PopulationLayerNorm, Reshape, SharedDropout, SparseChain
from evoprune.errors import InputError
from evoprune.problem.problem import Problem
from evoprune.problem.prunable import PRUNABLE_MODULES

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink,
)  # fmt: skip
# Their kernels round alike wherever in a vector an element lies; those of GELU or sigmoid do not.
ROUND_ALIKE = (nn.Sequential, nn.Linear, nn.ReLU, nn.Flatten, nn.Identity)
SUPPORTED = (*ELEMENTWISE, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Flatten, nn.Unflatten)


def replace_modules(
    network: nn.Module, survivors: dict[str, list[NDArray[np.int64]]], size: int
) -> tuple[dict[str, Layer | PopulationLayerNorm], list[SparseChain | PopulationLayerNorm]]:
    """Puts the population's modules in the place of the network's.

    Returns:
        The layers that have parameters, by their names in the network, and the modules that own them.
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


def require_supported(problem: Problem) -> None:
    """Refuses networks with modules that the engine does not know."""
    if problem.device == "cpu" and not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        raise InputError("this build of torch has no MKL, whose sparse products the engine 'sparse' needs; use 'module'.")
    for name, module in problem.network().named_modules():
        said = f"{name or 'the network'} is {type(module).__name__}; the engine 'sparse'"
        leaf = next(module.children(), None) is None
        if isinstance(module, PRUNABLE_MODULES) and type(module) is not nn.Linear:
            raise InputError(f"{said} has no convolutions yet, nor kinds of nn.Linear. Use the engine 'module' or 'stacked'.")
        if leaf and type(module) not in SUPPORTED:
            raise InputError(
                f"{said} serves linear layers, layer normalisation over the last dimension, dropout, flattening and "
                f"elementwise activations. Use the engine 'module' or 'stacked'."
            )
        if type(module) is nn.LayerNorm and len(module.normalized_shape) != 1:
            raise InputError(f"{said} normalises over the last dimension only. Use the engine 'module' or 'stacked'.")
        if not leaf and [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise InputError(f"{said} cannot stack parameters outside of layers. Use the engine 'module' or 'stacked'.")
