"""The methods of a comparison, and their sanity controls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evoprune.baselines.registry import BASELINES
from evoprune.search import combine as algorithms
from evoprune.search.baseline import baseline
from evoprune.search.dissipate import dissipate
from evoprune.search.evolution.evolve import evolve
from evoprune.search.evolution.options import Evolution
from evoprune.search.kstarts import k_starts

# Sanity controls of a method's mask: what is trained from W0 instead of going on (Frankle et al. 2021, Su et al. 2020).
CONTROLS = ("restart", "shuffled", "redrawn")


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        search: Called with the problem, options and where to record.
        options: Its options in the place of the function's defaults.
    """

    search: Callable[..., Any]
    options: Mapping[str, Any]


_ALONE = {"controls": False, "workers": "serial"}
_EVOLVE = {**_ALONE, "fitness": "loss", "trained_bests": 0}
# What was found best; see RESULTS.md.
_RISING = Evolution(k=2, offspring=4, generations=5, first_sparsity=0.8, drop="magnitude", among=1.2)
_FIXED = Evolution()
_DISSIPATED = replace(_RISING, start=("dissipate",))
_DISSIPATED_FIXED = Evolution(k=4, offspring=16, generations=10, start=("dissipate",), fraction=0.02, last_fraction=0.005)


def _random_search(evolution: Evolution, fitness_epochs: int) -> Method:
    """Returns the control of an evolution: the best of as many random masks."""
    options = {"k": evolution.most_evaluations, "fitness": "loss", "fitness_epochs": fitness_epochs}
    return Method(k_starts, {**options, **_ALONE})


_BASELINES = {name: Method(functools.partial(baseline, method=name), {}) for name in BASELINES}
# In the order of tables and figures.
METHODS: dict[str, Method] = {
    **{name: _BASELINES[name] for name in ("dense", "lottery-ticket")},
    "dissipate": Method(dissipate, {}),
    "combine": Method(algorithms.combine, _ALONE),
    "evolve-dissipated": Method(evolve, {**_EVOLVE, "evolution": _DISSIPATED, "fitness_epochs": 5}),
    "evolve": Method(evolve, {**_EVOLVE, "evolution": _RISING, "fitness_epochs": 5}),
    "random-search": _random_search(_RISING, 5),
    "kstarts": Method(k_starts, _ALONE),
    **{name: _BASELINES[name] for name in ("snip", "grasp", "synflow", "magnitude", "erk", "random")},
    **_BASELINES,
    "dissipate-relative": Method(dissipate, {"movement": "relative"}),
    "evolve-dissipated-fixed": Method(evolve, {**_EVOLVE, "evolution": _DISSIPATED_FIXED, "fitness_epochs": 2}),
    "evolve-fixed": Method(evolve, {**_EVOLVE, "evolution": _FIXED, "fitness_epochs": 1}),
    "random-dropout": Method(dissipate, {"movement": "random"}),
    "random-search-fixed": _random_search(_FIXED, 1),
}


def split_control(method: str) -> tuple[str, str | None]:
    """Returns a method's name and, where it is a sanity control of another, which one."""
    base, _, control = method.rpartition("-")
    return (base, control) if control in CONTROLS and base in METHODS else (method, None)
