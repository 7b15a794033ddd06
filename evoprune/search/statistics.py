"""DEAP's statistics of the fitness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from deap import tools

from evoprune.masks.mask import fitness_of


def make_statistics() -> tools.Statistics:
    """Returns DEAP's statistics of the fitness: min, mean, max and std over the finite values (NaN for none)."""
    return with_statistics(tools.Statistics(fitness_of))


def with_statistics(statistics: Any) -> Any:
    """Registers min, mean, max and std over the finite values (NaN for none), and returns the statistics."""
    for name, function in (("min", np.min), ("mean", np.mean), ("max", np.max), ("std", np.std)):
        statistics.register(name, _over_finite, function)
    return statistics


def _over_finite(function: Callable[[Any], Any], values: Any) -> float:
    finite = np.array([value for value in values if np.isfinite(value)])
    return float(function(finite)) if finite.size else float("nan")
