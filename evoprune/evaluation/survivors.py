"""Masks that have another number of survivors than they should: repaired, or warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evoprune.errors import InputError, SurvivorsWarning, warn_in_spite_of_blanket_filters
from evoprune.masks.mask import Mask
from evoprune.operators.keeping import repair


@dataclass
class SurvivorCheck:
    """Checks the number of survivors of DEAP's masks before they are evaluated.

    A mask that an operator of :mod:`evoprune.operators` gave another number on purpose is left as it is.

    Attributes:
        survivors: The number that masks should have; None for any.
        repairs: Repair such masks; else the first is warned of.
        copied: The check is in another process than the population, made from a pickle.
    """

    survivors: int | None
    repairs: bool
    copied: bool = False
    _said: bool = field(default=False, init=False, repr=False)

    def __call__(self, masks: Sequence[Mask], in_place: bool = True) -> None:
        """Repairs masks that have another number of survivors than they should, or warns of the first.

        Args:
            masks: The masks, which a repair changes.
            in_place: They are the population's own, not copies in another process.

        Raises:
            InputError: They are copies, which it is of no use to repair.
        """
        if self.survivors is None:
            return
        for mask in masks:
            expected, found = self.survivors if mask.meant is None else mask.meant, mask.survivors
            if found == expected:
                continue
            if self.repairs and not in_place:
                raise InputError(
                    f"a mask has {found:,} survivors in place of {expected:,}, and to repair it here is of no use, for this "
                    f"process has a copy; decorate mate and mutate with ep.operators.keep_survivors(rng=...), or take the "
                    f"toolbox's own map with workers=."
                )
            if self.repairs:
                repair(mask, rng=np.random.default_rng(int(mask.hash, 16)), survivors=expected)
            elif not self._said:
                self._said = True
                self._warn(expected, found)

    def _warn(self, expected: int, found: int) -> None:
        # from a process that makes its evaluator anew for every call always the same words, which Python says once
        has = "another number of survivors" if self.copied else f"{found:,} survivors"
        warn_in_spite_of_blanket_filters(
            f"a mask with {has} is evaluated, where {expected:,} were expected: an operator does not keep the number. "
            f"Take those of ep.operators, decorate yours with ep.operators.keep_survivors(rng=...), or repair=True.",
            SurvivorsWarning,
            stacklevel=4,
        )
