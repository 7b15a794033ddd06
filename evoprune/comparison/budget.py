"""The options and the planned cost of a method, and the epochs that fit a budget."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any

from evoprune.comparison import methods
from evoprune.comparison.cells import Cell, Comparison
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.search.dissipate import Removals, removals_within
from evoprune.search.execution import Execution
from evoprune.search.method import Cost, Method, make_options
from evoprune.search.registry import find_method

# Options of the searches that a comparison may set; the others have each method's default.
SEARCH_OPTIONS = (
    "k", "fitness", "layer_densities", "fitness_epochs", "first_sparsity", "dissipate_epochs", "movement", "scope", "select",
)  # fmt: skip


def options_of(comparison: Comparison, name: str) -> dict[str, Any]:
    """Returns the options with which a method is called: its own, those of the comparison that it knows, and the defaults."""
    variant = methods.find(name)
    known = {f.name: f.default for f in fields(find_method(variant.method).Options) if f.default is not MISSING}
    defaults = {option: known[option] for option in SEARCH_OPTIONS if option in known}
    if "dissipate_epochs" in known:
        # a number, as records have always had
        defaults["dissipate_epochs"] = removals_within(epochs_of(comparison), Removals())
    return defaults | {option: value for option, value in comparison.search.items() if option in known} | dict(variant.options)


def epochs_of(comparison: Comparison) -> int:
    """Returns the epochs of a comparison's recipe; the default's if a function of the user's decides."""
    if comparison.subject is None:
        return int(comparison.recipe.get("epochs", Recipe.epochs))
    given = comparison.subject.given
    return given.recipe.epochs if isinstance(given, Problem) else Recipe.epochs


def resolve(comparison: Comparison, cell: Cell) -> tuple[Method, Any, Execution]:
    """Returns a cell's method, its options, and the execution.

    Raises:
        InputError: An unknown name or a value that cannot be served.
    """
    method = find_method(methods.find(cell.base).method)
    given = {"engine": comparison.engine, "threads": comparison.threads, **options_of(comparison, cell.base)}
    return method, *make_options(method, {**given, "sparsity": cell.sparsity})


def planned_cost(problem: Problem, comparison: Comparison, cell: Cell) -> Cost:
    """Returns the cost of a method as a function of its epochs, in epochs of dense training; infinite for too few.

    The cost counts surviving weights, which is exact if every example uses each weight equally often. For a method without a
    planned cost, only the final training counts.
    """
    method, options, _ = resolve(comparison, cell)
    if hasattr(method, "cost"):
        cost: Cost = method.cost(problem, options)
        return cost
    return lambda epochs: epochs * (1 - cell.sparsity) if epochs else math.inf


def epochs_within(problem: Problem, comparison: Comparison, cell: Cell) -> int | None:
    """Returns the most epochs with which search and training stay within the cell's budget.

    None if it does not fit: a training has more epochs than its warm-up.
    """
    assert cell.budget is not None
    cost = planned_cost(problem, comparison, cell)
    most = int(cell.budget / (1 - cell.sparsity)) + 1
    return next((epochs for epochs in range(most, math.floor(problem.recipe.warmup), -1) if cost(epochs) <= cell.budget), None)
