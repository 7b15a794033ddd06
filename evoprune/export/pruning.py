"""Masks as the parametrisation of ``torch.nn.utils.prune``, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evoprune.errors import InputError
from evoprune.export.fit import fitted, require_module
from evoprune.masks.mask import Mask
from evoprune.problem.prunable import prunable

_ORIGINAL = "_orig"  # torch's ending for the parameter under a mask
# Modules that hold things for others, and are never called.
_HOLDERS = (nn.ParameterList, nn.ParameterDict, nn.ModuleList, nn.ModuleDict)


def apply(mask: Mask, model: nn.Module) -> nn.Module:
    """Prunes a module by a mask, in place, as ``torch.nn.utils.prune`` does.

    Each weight of the mask becomes a parameter ``NAME_orig`` and a buffer ``NAME_mask``, and ``NAME`` is their product,
    computed anew before each call. ``prune.is_pruned(model)`` is true then, and ``prune.remove(module, "weight")`` makes a
    weight plain again, with zeros where it was removed. An optimiser that was made before still holds the right parameters,
    for ``NAME_orig`` is the same object. Tied weights are pruned in every layer that has them, and stay tied.

    A weight that another module reads without calling its layer is fresh only if that module is an attention, which reads its
    output layer, or has the weight in a ``ParameterList`` or ``ParameterDict``. In other such code, call the layer.

    Args:
        mask: The mask.
        model: The module.

    Returns:
        The module.

    Raises:
        InputError: The mask does not fit, a weight is pruned already, or ``torch.nn.utils.prune`` cannot prune it. The module
            is unchanged then.
    """
    found = fitted(mask, model)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is TorchScript, which torch.nn.utils.prune cannot change; give the module it was made from."
        )
    places = {name: list(_places(model, parameter)) for name, parameter in found.items()}
    for name, owners in places.items():
        for owner, _ in owners:
            _require_prunable(name, model.get_submodule(owner))
    for name, bits in mask.layers.items():
        for owner, own in places[name]:
            keep = torch.from_numpy(bits).to(found[name].device)
            prune.custom_from_mask(model.get_submodule(owner), own, keep)  # type: ignore[no-untyped-call]
    _refresh_uncalled(model, {owner for owners in places.values() for owner, _ in owners})
    return model


def mask_of(model: nn.Module, *, zeros: bool = False, names: Iterable[str] | None = None) -> Mask:
    """Returns the mask of a module that ``torch.nn.utils.prune`` has pruned: of the tensors that are pruned, and no others.

    After ``prune.remove`` nothing tells a weight that was removed from a survivor that happens to be zero, so the mask has to
    be requested by ``zeros=True``: then every zero counts as removed.

    Args:
        model: The module.
        zeros: Read the mask from the zeros among the weights.
        names: With ``zeros``, the names of the weights; None for all prunable ones of the kinds that evoprune knows.

    Raises:
        InputError: The module is not pruned, or a name is not in it.
    """
    require_module(model)
    if zeros:
        return Mask.from_layers(_read_zeros(model, names))
    if names is not None:
        raise InputError("names go with zeros=True; a module that is pruned says itself which weights are.")
    layers = {name: getattr(module, f"{own}_mask") for name, module, own in _pruned(model)}
    if not layers:
        raise InputError(
            "the model is not pruned by torch.nn.utils.prune. If its weights are plain, and zero where they were removed, as "
            "after prune.remove, ep.export.mask_of(model, zeros=True) reads the mask from the zeros; a survivor that is "
            "exactly zero counts as removed then."
        )
    return Mask.from_layers(layers)


def _read_zeros(model: nn.Module, names: Iterable[str] | None) -> Mapping[str, Tensor]:
    parameters = dict(model.named_parameters())
    wanted = list(prunable(model) if names is None else names)
    if missing := [name for name in wanted if name not in parameters]:
        raise InputError(f"the model has no parameter {missing[0]!r}; expected some of: {', '.join(parameters)}.")
    return {name: parameter.detach() != 0 for name, parameter in parameters.items() if name in wanted}


def _pruned(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yields the tensors that are pruned, in ``named_parameters`` order: each one's name, module, and name in the module."""
    for name, _ in model.named_parameters():
        owner, _, own = name.removesuffix(_ORIGINAL).rpartition(".")
        module = model.get_submodule(owner)
        if name.endswith(_ORIGINAL) and any(hook._tensor_name == own for hook in _pruning_hooks(module)):
            yield name.removesuffix(_ORIGINAL), module, own


def _pruning_hooks(module: nn.Module) -> list[prune.BasePruningMethod]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, prune.BasePruningMethod)]


def _places(model: nn.Module, parameter: nn.Parameter) -> Iterator[tuple[str, str]]:
    """Yields the modules that have a parameter, by the first of their names, and its name in each."""
    for owner, module in model.named_modules():
        for own, other in module.named_parameters(recurse=False, remove_duplicate=False):
            if other is parameter:
                yield owner, own


def _require_prunable(name: str, module: nn.Module) -> None:
    """Refuses weights for which the parametrisation would go wrong without a word."""
    if getattr(module, "max_norm", None) is not None:
        raise InputError(
            f"{name} belongs to an embedding with max_norm, which rescales its rows in place; torch.nn.utils.prune would lose "
            f"the change. Use an embedding without max_norm, or ep.export.keep_zero(mask, model, optimizer)."
        )


class _Refresh:
    """A hook of a module that reads weights of others without calling them: it computes those of them that are pruned.

    Args:
        modules: The modules that are never called.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules

    def __call__(self, caller: nn.Module, inputs: Any) -> None:
        for module in self.modules:
            for hook in _pruning_hooks(module):
                hook(module, inputs)


def _refresh_uncalled(model: nn.Module, owners: set[str]) -> None:
    """Lets the modules around those that are never called compute their weights."""
    by_caller: dict[str, list[nn.Module]] = {}
    for owner in sorted(owners):
        caller = owner
        while caller and _is_uncalled(model, caller):
            caller = caller.rpartition(".")[0]
        if caller != owner:
            by_caller.setdefault(caller, []).append(model.get_submodule(owner))
    for caller, modules in by_caller.items():
        model.get_submodule(caller).register_forward_pre_hook(_Refresh(modules))


def _is_uncalled(model: nn.Module, name: str) -> bool:
    parent, _, own = name.rpartition(".")
    is_output = own == "out_proj" and isinstance(model.get_submodule(parent), nn.MultiheadAttention)
    return is_output or isinstance(model.get_submodule(name), _HOLDERS)
