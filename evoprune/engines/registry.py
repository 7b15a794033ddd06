"""The registry of engines."""

from __future__ import annotations

from evoprune.engines.module import ModulePopulation
from evoprune.engines.population import Engine
from evoprune.engines.sparse.convert import company_changes_no_bit
from evoprune.engines.sparse.population import SparsePopulation
from evoprune.engines.stacked import StackedPopulation

ENGINES = {
    "module": Engine(ModulePopulation, 1, lambda problem: True),
    "stacked": Engine(StackedPopulation),
    "sparse": Engine(SparsePopulation, None, company_changes_no_bit),
}
