"""Optimisers: those of ``torch.optim`` by name, and a user's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from evoprune.errors import InputError
from evoprune.options import parameters_of
from evoprune.registry import Registry, describe


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Returns the optimisers of ``torch.optim`` that train with dense gradients and no closure, by name."""
    found = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    }
    return {name: kind for name, kind in found.items() if name not in ("Optimizer", "LBFGS", "SparseAdam")}


@functools.cache
def without_compiler(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Returns a class that is one of ``torch.optim`` and makes the same steps, bit for bit, without importing torch's compiler.

    torch wraps some methods for ``torch.compile``, and the wrappers import ``torch._dynamo``, which takes two seconds in every
    process. Here the same methods are called without the wrappers.

    Args:
        name: The class's name. No step is differentiated, whatever the option ``differentiable`` says.
    """
    kind = optimizers()[name]
    methods = {method: inspect.unwrap(getattr(kind, method)) for method in ("add_param_group", "zero_grad")}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(name, (kind,), methods)


def is_torchs(optimizer: torch.optim.Optimizer, name: str) -> bool:
    """Tells whether an optimiser is the one of ``torch.optim`` of that name, and of no class derived from it."""
    return type(optimizer) in (optimizers()[name], without_compiler(name))


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Tells whether a function or class can be called with a keyword."""
    parameters = parameters_of(function)
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def own_optimizer(given: Any) -> Callable[..., torch.optim.Optimizer]:
    """Returns a user's class of optimisers, or function that makes one.

    Raises:
        InputError: It cannot be called with a learning rate, or is one of ``torch.optim`` that cannot train here.
    """
    if not callable(given) or not accepts(given, "lr") or given in (torch.optim.LBFGS, torch.optim.SparseAdam):
        raise InputError(
            f"the optimizer is {describe(given)}; expected a class derived from torch.optim.Optimizer, or a function that "
            f"makes one, which takes parameters and the keyword lr, since the schedule sets it; its step needs no closure."
        )
    made: Callable[..., torch.optim.Optimizer] = given
    return made


def require_optimizer(made: Any, name: str) -> None:
    """Checks that a user's class or function has made an optimiser whose learning rate can be set.

    Raises:
        InputError: It has not.
    """
    if not isinstance(made, torch.optim.Optimizer) or not all("lr" in group for group in made.param_groups):
        raise InputError(
            f"the optimizer {name} makes {describe(made)}; expected a torch.optim.Optimizer whose param_groups have an 'lr'."
        )


# Optimisers: classes, or functions of parameters and keywords such as ``lr`` that make one.
OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry("optimizer", optimizers(), own_optimizer)
