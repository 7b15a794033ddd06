"""The methods of a comparison, with the options that it gives them, and their sanity controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evoprune.baselines.registry import BASELINES
from evoprune.errors import look_up
from evoprune.search.evolution.options import Evolution
from evoprune.search.registry import method_names

# Sanity controls of a method's mask: it is trained from W0 (Frankle et al. 2021, Su et al. 2020).
CONTROLS = ("restart", "shuffled", "redrawn")


@dataclass(frozen=True)
class Variant:
    """A method as a comparison runs it.

    Attributes:
        method: Name of the method.
        options: Its options, in the place of the defaults.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


_ALONE = {"controls": False, "workers": "serial"}
_EVOLVE = {**_ALONE, "fitness": "loss", "trained_bests": 0}
# The best options found; see RESULTS.md.
_RISING = Evolution(k=2, offspring=4, generations=5, first_sparsity=0.8, drop="magnitude", among=1.2)
_FIXED = Evolution()
# Lineages that are pruned gradually; every parent has one child, and the fittest of the last generation wins.
_INHERIT = Evolution(k=2, offspring=2, generations=10_000, inherit=True, first_sparsity=0.5, drop="magnitude", among=1.0)
_DISSIPATED = replace(_RISING, start=("dissipate",))
_DISSIPATED_FIXED = Evolution(k=4, offspring=16, generations=10, start=("dissipate",), fraction=0.02, last_fraction=0.005)


def _random_search(evolution: Evolution, fitness_epochs: int) -> Variant:
    """Returns the control of an evolution: the best of as many random masks."""
    options = {"k": evolution.most_evaluations, "fitness": "loss", "fitness_epochs": fitness_epochs}
    return Variant("kstarts", {**options, **_ALONE})


_BASELINES = {name: Variant(name) for name in BASELINES}
# In the order of tables and figures.
VARIANTS: dict[str, Variant] = {
    **{name: _BASELINES[name] for name in ("dense", "lottery-ticket")},
    "dissipate": Variant("dissipate"),
    "combine": Variant("combine", _ALONE),
    "evolve-dissipated": Variant("evolve", {**_EVOLVE, "evolution": _DISSIPATED, "fitness_epochs": 5}),
    "evolve": Variant("evolve", {**_EVOLVE, "evolution": _RISING, "fitness_epochs": 5}),
    "random-search": _random_search(_RISING, 5),
    "kstarts": Variant("kstarts", _ALONE),
    **{name: _BASELINES[name] for name in ("snip", "grasp", "synflow", "magnitude", "erk", "random")},
    **{name: Variant(name) for name in ("gmp", "granet", "rigl", "set")},
    **_BASELINES,
    "evolve-gmp": Variant("evolve-gmp", _ALONE),
    "evolve-gmp-one": Variant("evolve-gmp", {**_ALONE, "starts": 1, "generations": 0}),
    "evolve-inherit": Variant("evolve", {**_EVOLVE, "evolution": _INHERIT, "fitness_epochs": 1}),
    "imp": Variant("imp"),
    "dissipate-magnitude": Variant("dissipate", {"movement": "magnitude"}),
    "dissipate-relative": Variant("dissipate", {"movement": "relative"}),
    "evolve-dissipated-fixed": Variant("evolve", {**_EVOLVE, "evolution": _DISSIPATED_FIXED, "fitness_epochs": 2}),
    "evolve-fixed": Variant("evolve", {**_EVOLVE, "evolution": _FIXED, "fitness_epochs": 1}),
    "random-dropout": Variant("dissipate", {"movement": "random"}),
    "random-search-fixed": _random_search(_FIXED, 1),
}


def names() -> tuple[str, ...]:
    """Returns the names of the methods that can be compared, your own included, in the order of tables and figures."""
    return tuple(name for name in dict.fromkeys([*VARIANTS, *method_names()]) if name != "train")


def find(name: str) -> Variant:
    """Returns a method as a comparison runs it.

    Raises:
        InputError: The name is unknown; the message lists the known ones and the nearest.
    """
    look_up("method", name, dict.fromkeys(names()))
    return VARIANTS.get(name) or Variant(name)


def split_control(method: str) -> tuple[str, str | None]:
    """Returns a method's name and, if it is a sanity control of another, the kind of control."""
    base, _, control = method.rpartition("-")
    return (base, control) if control in CONTROLS and base in names() else (method, None)
