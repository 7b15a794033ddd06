"""Repair of masks whose number of survivors an operator has changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.operators.positions import draw_removed, set_bits


def repair(mask: Mask, *, rng: np.random.Generator, survivors: int) -> tuple[Mask]:
    """Removes or adds random weights until a mask has so many survivors.

    Args:
        mask: The individual, which is changed unless it has that number already.
        rng: Source of the draws.
        survivors: The number that it shall have, from 0 to all.

    Raises:
        InputError: The number is out of range.
    """
    if isinstance(survivors, bool) or not isinstance(survivors, (int, np.integer)) or not 0 <= survivors <= len(mask):
        raise InputError(f"survivors are {survivors!r}; expected an integer from 0 to the {len(mask)} weights.")
    change = int(survivors) - mask.survivors
    if change > 0:
        set_bits(mask, draw_removed(mask, slice(0, len(mask)), change, rng), True)
    elif change:
        set_bits(mask, rng.choice(np.flatnonzero(mask.bits), -change, replace=False), False)
    return (mask,)


def keep_survivors(*, rng: np.random.Generator) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that lets an operator keep every mask's number of survivors, by :func:`repair`.

    It is for operators that know nothing of survivors, such as DEAP's own::

        toolbox.register("mate", tools.cxTwoPoint)
        toolbox.decorate("mate", operators.keep_survivors(rng=rng))

    Args:
        rng: Source of the draws.
    """
    return functools.partial(_KeepsSurvivors, rng)


class _KeepsSurvivors:
    """An operator whose children are repaired; a class, so that a toolbox that holds it pickles."""

    __slots__ = ("operator", "rng")

    def __init__(self, rng: np.random.Generator, operator: Callable[..., Any]) -> None:
        self.rng, self.operator = rng, operator

    def __call__(self, *individuals: Any, **options: Any) -> Any:
        counts = [each.survivors for each in individuals if isinstance(each, Mask)]
        children = self.operator(*individuals, **options)
        for child, count in zip(children, counts, strict=True):
            repair(child, rng=self.rng, survivors=count)
        return children
