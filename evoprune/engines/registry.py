"""The registry of engines."""

from __future__ import annotations

from typing import Any

from evoprune.engines.module import ModulePopulation
from evoprune.engines.population import Engine
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
        "sparse": Engine(SparsePopulation, None, lambda problem: True),
    },
    engine_of,
)
