"""The registry of engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evoprune.engines.module import ModulePopulation
from evoprune.engines.population import Engine
from evoprune.engines.sparse import support
from evoprune.engines.sparse.population import SparsePopulation
from evoprune.engines.stacked import StackedPopulation
from evoprune.errors import InputError
from evoprune.registry import Registry, describe


def engine_of(thing: Any) -> Engine:
    """Returns the engine that a user gives: an engine, or a population's class, which takes any number of individuals.

    Raises:
        InputError: Anything else.
    """
    if isinstance(thing, Engine):
        return thing
    if isinstance(thing, type) and hasattr(thing, "set_masks"):
        return Engine(thing)
    raise InputError(
        f"an engine is {describe(thing)}; expected a class that is made of a problem and masks, such as "
        f"evoprune.engines.stacked.StackedPopulation, or an evoprune.engines.population.Engine with one."
    )


ENGINES: Registry[Engine] = Registry(
    "engine",
    {
        "module": Engine(ModulePopulation, 1, lambda problem: True),
        "stacked": Engine(StackedPopulation),
        "sparse": Engine(SparsePopulation, None, lambda problem: True, arithmetic=3, fault=support.fault),
    },
    engine_of,
)


def arithmetic() -> dict[str, int]:
    """Returns the version of each engine's arithmetic, as a run records it; 0 for an engine that this machine cannot have."""
    return {name: 0 if engine.fault() else engine.arithmetic for name, engine in ENGINES.items()}


def arithmetic_difference(engine: str, before: Mapping[str, int], now: Mapping[str, int]) -> str:
    """Returns in words why a run cannot continue with the same arithmetic; empty if it can.

    Args:
        engine: The run's engine; ``auto`` stands for any.
        before: The versions that it recorded; engines that are missing had version 1.
        now: The versions of this process.
    """
    for name in now if engine == "auto" else [engine] if engine in now else []:
        was, has = before.get(name, 1), now[name]
        if was != has and not has:
            return f"its engine {name!r} cannot be had here, for {ENGINES[name].fault()}"
        if was != has:
            then = f"arithmetic of version {was}" if was else "could not be had where it began"
            return (
                f"its engine {name!r} has arithmetic of version {has}, then {then}, so its numbers would change; "
                f"environment.json names the versions that would continue it"
            )
    return ""
