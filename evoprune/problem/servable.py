"""Modules that cannot be pruned faithfully, and are refused."""

from __future__ import annotations

import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from evoprune.errors import InputError


def require_servable(network: nn.Module) -> None:
    """Checks that a network's modules can be copied, masked and trained as they are.

    Raises:
        InputError: One of them cannot: it is pruned or reparametrised by hooks, lazy, compiled, or has no values; the message
            says how to make it plain.
    """
    for name, module in network.named_modules(remove_duplicate=False):
        for is_such, fault, cure in _NOT_SERVED:
            if is_such(module):
                raise InputError(f"{name or 'the network'} ({type(module).__name__}) {fault}; {cure}.")
    _require_no_original(network)


def _require_no_original(network: nn.Module) -> None:
    """Refuses functions that hold a module of the network: a copy of the network would keep using the original's module.

    The rehearsal finds all other ways to the original, but not to frozen parameters, which leave no trace in the loss's graph.
    """
    own = set(network.modules())
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            held = _held(value) if isinstance(value, types.FunctionType) else []
            if any(isinstance(thing, nn.Module) and thing in own for thing in held):
                raise InputError(
                    f"{f'{name}.' if name else ''}{attribute} is a function that holds a module of the network, such as self "
                    f"in a lambda; copies of the network, which are trained, would go on using this one. Make it a method."
                )


def _held(function: types.FunctionType) -> list[object]:
    """Returns the objects in a function's closure and defaults."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _has_hook(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    return any(isinstance(hook, kinds) for hook in module._forward_pre_hooks.values())


# Tests for modules that are not plain, the fault in words, and the cure.
_NOT_SERVED: tuple[tuple[Callable[[nn.Module], bool], str, str], ...] = (
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "is TorchScript, whose code cannot be read",
        "give the module that it was made from",
    ),
    (
        lambda module: hasattr(module, "_orig_mod") or module._compiled_call_impl is not None,
        "is compiled (torch.compile)",
        "give the module itself, model._orig_mod, or do not call model.compile()",
    ),
    (
        lambda module: isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)),
        "spreads over devices",
        "give the module inside, model.module",
    ),
    (
        lambda module: any(is_lazy(tensor) for tensor in _tensors(module)),
        "is lazy, and its weights have no shape yet",
        "send a batch through it first, model(x)",
    ),
    (
        lambda module: any(tensor.is_meta for tensor in _tensors(module)),
        "is on the device meta, without values",
        "give it values, model.to_empty(device='cpu') and a state_dict",
    ),
    (
        lambda module: any(tensor._backward_hooks for tensor in module.parameters(recurse=False)),
        "has parameters with hooks for gradients, which a copy of it loses",
        "freeze by requires_grad_(False), or change the gradient in the forward pass",
    ),
    (
        lambda module: _has_hook(module, (prune.BasePruningMethod,)),
        "is pruned by torch.nn.utils.prune, which hides its weight",
        "keep its mask, ep.Mask.from_layers({'NAME.weight': module.weight_mask}), call torch.nn.utils.prune.remove(module, "
        "'weight'), and train the mask by ep.train_mask(problem, mask)",
    ),
    (
        lambda module: _has_hook(module, (WeightNorm, SpectralNorm)),
        "is under the old torch.nn.utils.weight_norm or spectral_norm, which hides its weight",
        "call torch.nn.utils.remove_weight_norm or remove_spectral_norm first, or use torch.nn.utils.parametrizations",
    ),
)
