"""Whether a mask fits a module of the user's, found before anything is changed."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from evoprune.errors import InputError
from evoprune.masks.mask import Mask


def fitted(mask: Mask, model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters of a module that a mask names, by name.

    The mask may leave other weights of the module alone.

    Args:
        mask: The mask.
        model: The module.

    Raises:
        InputError: It is no mask or no module; a weight of the mask is missing in the module, has another shape or place in
            the order, or is pruned already; or two of them are one parameter, tied.
    """
    _require_mask(mask)
    require_module(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in mask.shapes:
        if f"{name}_orig" in parameters:
            owner, _, own = name.rpartition(".")
            raise InputError(
                f"{name} is pruned already by torch.nn.utils.prune; call torch.nn.utils.prune.remove(model"
                f"{f'.{owner}' if owner else ''}, {own!r}) first. ep.export.mask_of(model) returns the mask that it has."
            )
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(parameters) or "none"
            raise InputError(f"the mask does not fit the model, which has no {name!r}; its parameters are: {known}.{hint}")
    found = {name: parameter for name, parameter in parameters.items() if name in mask.shapes}
    mask.require({name: parameter.shape for name, parameter in found.items()})
    first: dict[int, str] = {}
    for name, parameter in found.items():
        other = first.setdefault(id(parameter), name)
        if other != name:
            raise InputError(f"{other} and {name} are one parameter of the model, tied; expected only {other} in the mask.")
    return found


def require_module(model: Any) -> None:
    """Checks that a model is a module.

    Raises:
        InputError: It is none.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}; expected a torch.nn.Module.")


def _require_mask(mask: Any) -> None:
    if not isinstance(mask, Mask):
        raise InputError(f"mask is {type(mask).__name__}; expected ep.Mask, such as ep.Mask.load('runs/mine/mask.npz').")
