"""The planned cost of a method, and the epochs that fit a budget."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from evoprune.baselines.registry import BASELINES
from evoprune.comparison.cells import Cell, Comparison
from evoprune.comparison.methods import METHODS
from evoprune.problem.problem import Problem
from evoprune.search.evolution.options import RANDOM, Evolution
from evoprune.search.evolution.starts import DISSIPATE, DISSIPATE_EPOCHS
from evoprune.training.gradient import BATCH

# Options of the searches, which a comparison may set; what it does not set is the method's default.
SEARCH_OPTIONS = (
    "k", "fitness", "layer_densities", "fitness_epochs", "first_sparsity", "dissipate_epochs", "movement", "scope", "select",
)  # fmt: skip


def options_of(comparison: Comparison, method: str) -> dict[str, Any]:
    """Returns the options with which a method is called: its own, those of the comparison's that it knows, and the defaults."""
    entry = METHODS[method]
    names = inspect.signature(entry.search).parameters
    defaults = {name: names[name].default for name in SEARCH_OPTIONS if name in names}
    return defaults | {name: value for name, value in comparison.search.items() if name in names} | dict(entry.options)


def planned_cost(problem: Problem, comparison: Comparison, cell: Cell) -> Callable[[int], float]:
    """Returns what a method will cost as a function of its epochs, in epochs of dense training; infinite for too few.

    Counted on surviving weights, which is exact where every weight is used equally often by an example.
    """
    density = 1 - cell.sparsity
    if cell.base in BASELINES:
        baseline = BASELINES[cell.base]
        return lambda epochs: baseline.search_cost(problem, cell.sparsity, epochs) + epochs * density
    options = options_of(comparison, cell.base)
    if "evolution" in options:
        return _cost_of_evolution(problem, options["evolution"], options["fitness_epochs"], cell.sparsity)
    first = 1 - options.get("first_sparsity", cell.sparsity if "k" in options else 0.0)
    removals = options.get("dissipate_epochs", 0)
    brief = options.get("fitness_epochs", 0)
    # densities of a start, epoch by epoch, until it is as sparse as in the end
    course = [first * (density / first) ** (i / removals) for i in range(removals)]
    if options.get("select") != "end":
        course = [first] * (brief - 1 if removals else brief) + course
    course += [density] * (brief - len(course))
    least = max(1, len(course))
    others = (options.get("k", 1) - 1) * sum(course[:brief])
    return lambda epochs: math.inf if epochs < least else others + sum(course) + (epochs - len(course)) * density


def _cost_of_evolution(problem: Problem, evolution: Evolution, brief: int, sparsity: float) -> Callable[[int], float]:
    """Returns what an evolution costs at most: children that were there before cost nothing."""
    n, weights, density = len(problem.part("train")[0]), problem.prunable_count, 1 - sparsity
    kept = [evolution.survivors_at(gen, sparsity, weights) for gen in range(1, evolution.generations + 1)]
    densities = [density if survivors is None else survivors / weights for survivors in kept]
    briefs = evolution.first * (1 - evolution.begin(sparsity)) + evolution.children * sum(densities)
    evidence = min(BATCH, n) / n if evolution.evidence(sparsity) else 0.0
    search = (briefs - density) * brief + evolution.most_evaluations * evidence
    baselines = [BASELINES[name] for name in evolution.names if name in BASELINES and name != RANDOM]

    def cost(epochs: int) -> float:
        removals = min(DISSIPATE_EPOCHS, epochs) if DISSIPATE in evolution.names else 0
        begin = evolution.begin(sparsity)
        starts = [(1 - begin) ** (i / removals) for i in range(removals)]
        starts += [baseline.search_cost(problem, begin, epochs) for baseline in baselines]
        return math.inf if epochs < brief else search + sum(starts) + epochs * density

    return cost


def epochs_within(problem: Problem, comparison: Comparison, cell: Cell) -> int | None:
    """Returns the most epochs with which search and training stay within the cell's budget; None where it does not fit."""
    assert cell.budget is not None
    cost = planned_cost(problem, comparison, cell)
    most = int(cell.budget / (1 - cell.sparsity)) + 1
    return next((epochs for epochs in range(most, 0, -1) if cost(epochs) <= cell.budget), None)
