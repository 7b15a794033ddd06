"""Pruned weights that stay zero in a training loop of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.errors import InputError
from evoprune.export.fit import fitted
from evoprune.masks.mask import Mask


class KeptZero:
    """Weights that an optimiser keeps at zero, until :meth:`remove`; as a context manager, until the context ends.

    Args:
        weights: The weights, each with a tensor of its shape that is true where it is removed.
        optimizer: The optimiser.
    """

    def __init__(self, weights: Sequence[tuple[nn.Parameter, Tensor]], optimizer: torch.optim.Optimizer) -> None:
        self._weights = list(weights)
        self._zero()
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.state.clear()  # a history of all parameters as one vector, of which no part can be forgotten
        for weight, removed in self._weights:
            _forget(weight, removed, optimizer)
            if weight.grad is not None:
                _mask_gradient(removed, weight)
        hooks = [
            weight.register_post_accumulate_grad_hook(partial(_mask_gradient, removed))  # type: ignore[no-untyped-call]
            for weight, removed in self._weights
            if weight.requires_grad
        ]
        self._hooks: list[Any] = [*hooks, optimizer.register_step_post_hook(lambda *arguments: self._zero())]

    def remove(self) -> None:
        """Ends it: the weights are zero still, and the next step may change them."""
        while self._hooks:
            self._hooks.pop().remove()

    def __enter__(self) -> KeptZero:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    @torch.no_grad()
    def _zero(self) -> None:
        for weight, removed in self._weights:
            weight.masked_fill_(removed.to(weight.device), 0)


def keep_zero(mask: Mask, model: nn.Module, optimizer: torch.optim.Optimizer) -> KeptZero:
    """Sets the weights that a mask removes to zero, and keeps them there, whatever the optimiser does.

    Every step ends with zeros, so that momentum and weight decay revive nothing. Gradients of removed weights are zero as soon
    as they have been accumulated, so that clipping by norm sees survivors only, and the optimiser remembers nothing of removed
    weights; the memory of them that it may have already becomes zero, too. LBFGS begins anew, for it remembers all at once.

    Example::

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        ep.export.keep_zero(mask, model, optimizer)
        ...  # your loop

    Args:
        mask: The mask.
        model: The module, not pruned by ``torch.nn.utils.prune``.
        optimizer: Any optimiser of ``torch.optim``, of the parameters of the module.

    Returns:
        A handle, whose ``remove`` ends it; also a context manager.

    Raises:
        InputError: The mask does not fit the module, or the optimiser does not have its weights.
    """
    found = fitted(mask, model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer is {type(optimizer).__name__}; expected a torch.optim.Optimizer.")
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    # a frozen parameter needs no optimiser
    missing = [name for name, parameter in found.items() if parameter.requires_grad and id(parameter) not in known]
    if missing:
        raise InputError(
            f"the optimizer lacks the parameter {missing[0]} of the model; expected an optimizer of this model's parameters, "
            f"such as torch.optim.SGD(model.parameters(), lr=0.1)."
        )
    layers = mask.layers
    return KeptZero([(weight, torch.from_numpy(~layers[name]).to(weight.device)) for name, weight in found.items()], optimizer)


@torch.no_grad()
def _mask_gradient(removed: Tensor, weight: Tensor) -> None:
    gradient = weight.grad
    if gradient is None:
        return
    removed = removed.to(gradient.device)
    if gradient.layout == torch.strided:
        gradient.masked_fill_(removed, 0)  # a product would leave what is not finite
    else:
        weight.grad = gradient * ~removed


def _forget(weight: nn.Parameter, removed: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Sets the optimiser's memory of removed weights to zero."""
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(removed.to(value.device), 0)
