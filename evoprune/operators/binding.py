"""Operators by name, or the user's own, bound to the options of a search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.operators.crossover import CROSSOVERS, Crossover
from evoprune.operators.mutation import MUTATIONS
from evoprune.operators.positions import Mutation
from evoprune.options import accepted
from evoprune.registry import describe


def bind_mutation(mutation: str | Mutation, options: Mapping[str, Any]) -> Mutation:
    """Returns a mutation that is called with the mask, ``fraction`` and ``rng``.

    Args:
        mutation: Its name, or a function.
        options: Further keywords, such as ``scope``; it gets those that it has parameters for.

    Raises:
        InputError: An unknown name.
    """
    function = MUTATIONS.find(mutation)
    return functools.partial(_checked, function, 1, **accepted(function, options))


def bind_crossover(crossover: str | Crossover, options: Mapping[str, Any]) -> Crossover:
    """Returns a crossover that is called with two masks and ``rng``.

    Args:
        crossover: Its name, or a function.
        options: Further keywords, such as ``scope``; it gets those that it has parameters for.

    Raises:
        InputError: An unknown name.
    """
    function = CROSSOVERS.find(crossover)
    return functools.partial(_checked, function, 2, **accepted(function, options))


def _checked(function: Callable[..., Any], count: int, *masks: Mask, **options: Any) -> Any:
    """Calls an operator, and checks that it returns masks as DEAP wants them."""
    children = function(*masks, **options)
    if not isinstance(children, tuple) or len(children) != count or not all(isinstance(child, Mask) for child in children):
        expected = "(mask,)" if count == 1 else "(a, b)"
        raise InputError(
            f"the operator {describe(function)} returned {_shown(children)}; expected a tuple of masks, {expected}."
        )
    return children


def _shown(children: object) -> str:
    if isinstance(children, tuple):
        return f"({', '.join(type(child).__name__ for child in children)})"
    return type(children).__name__
