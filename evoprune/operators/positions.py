"""The positions that operators exchange, and the scopes that keep their survivors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from evoprune.errors import InputError, look_up
from evoprune.masks.bits import Bits, layer_slices
from evoprune.masks.evidence import Indices
from evoprune.masks.mask import Mask

SCOPES = ("global", "layer")


Mutation: TypeAlias = Callable[..., tuple[Mask]]


def exchange(mask: Mask, leaving: Indices, coming: Indices) -> None:
    """Removes survivors of a mask, and adds removed weights."""
    set_bits(mask, leaving, False)
    set_bits(mask, coming, True)


def set_bits(mask: Mask, index: Indices, value: Bits | bool) -> None:
    """Sets bits of a mask; its evidence is dropped if one of them changes."""
    if np.any(mask.bits[index] != value):
        mask.bits[index] = value
        mask.evidence = None


def draw_removed(mask: Mask, block: slice, count: int, rng: np.random.Generator) -> Indices:
    """Draws removed weights of a block of a mask, without listing all of them: in a sparse mask they are most weights.

    Returns:
        Their positions in the mask: those that ``rng.choice`` would draw of the list, without replacement.
    """
    survivors = np.flatnonzero(mask.bits[block])
    number = rng.choice(block.stop - block.start - len(survivors), count, replace=False)
    # so many removed weights come before each survivor
    before = survivors - np.arange(len(survivors))
    drawn: Indices = block.start + number + np.searchsorted(before, number, side="right")
    return drawn


def first_named(named: Indices, count: int, among: float, rng: np.random.Generator) -> Indices:
    """Returns ``count`` of the first positions that the evidence names, in its order."""
    if len(named) < count:
        raise InputError(
            f"{count} are to be swapped, but the evidence names {len(named)}; lower fraction, or take_evidence of more."
        )
    reach = min(len(named), round(among * count))
    return named[np.sort(rng.choice(reach, count, replace=False))]


def amount_of(survivors: int, n: int | None, fraction: float | None) -> int:
    """Returns how many survivors to exchange, from a number or a fraction."""
    if (n is None) == (fraction is None):
        raise InputError(f"n is {n} and fraction {fraction}; expected one of them: a number, or a fraction of the survivors.")
    if fraction is not None:
        return part_of(fraction, survivors)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise InputError(f"n is {n!r}; expected a positive integer.")
    return int(n)


def part_of(fraction: float, survivors: int) -> int:
    """Returns a fraction of the survivors as a number, at least one."""
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}; expected a number above 0 and at most 1, such as 0.05.")
    return max(1, round(fraction * survivors))


def blocks_of(mask: Mask, scope: str) -> list[slice]:
    """Returns the parts of a mask that keep their survivors."""
    look_up("scope", scope, dict.fromkeys(SCOPES, True))
    return list(layer_slices(mask.shapes).values()) if scope == "layer" else [slice(0, len(mask))]


def within(index: Indices, block: slice) -> Bits:
    """Returns for each index whether it lies in a block."""
    within: Bits = (index >= block.start) & (index < block.stop)
    return within
