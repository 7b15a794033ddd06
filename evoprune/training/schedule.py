"""Schedules of masks: how masks change while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from evoprune.engines.population import Population
from evoprune.masks.mask import Mask

# Called at the end of each epoch (counted from 1); returns the masks from now on, or None to leave them as they are.
Prune: TypeAlias = Callable[[int, Population], Sequence[Mask] | None]
