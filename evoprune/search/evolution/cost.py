"""The planned cost of an evolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from evoprune.baselines.registry import BASELINES
from evoprune.problem.problem import Problem
from evoprune.search.evolution.options import RANDOM, Evolution
from evoprune.search.evolution.starts import starting_schedules
from evoprune.search.scheduled import method_of
from evoprune.training.dissipation import densities
from evoprune.training.gradient import BATCH
from evoprune.training.registry import DISSIPATE_EPOCHS, SCHEDULES


def cost_of(
    problem: Problem, evolution: Evolution, brief: int, sparsity: float, restart: bool = False
) -> Callable[[int], float]:
    """Returns the cost as a function of the recipe's epochs, at most: children that were there before cost nothing.

    Args:
        problem: The problem.
        evolution: The options of the evolution.
        brief: Epochs of the brief training.
        sparsity: The final sparsity.
        restart: The winner is trained from W0 again.

    Returns:
        Epochs to epochs of dense training; infinite for fewer epochs than a brief training has.
    """
    if evolution.inherit:
        return lambda epochs: _inherited_cost(problem, evolution, brief, sparsity, epochs, restart)
    n, weights, density = len(problem.part("train")[0]), problem.prunable_count, 1 - sparsity
    kept = [evolution.survivors_at(gen, sparsity, weights) for gen in range(1, evolution.generations + 1)]
    densities = [density if survivors is None else survivors / weights for survivors in kept]
    briefs = evolution.first * (1 - evolution.begin(sparsity)) + evolution.children * sum(densities)
    evidence = min(BATCH, n) / n if evolution.evidence(sparsity) else 0.0
    search = (briefs - (0.0 if restart else density)) * brief + evolution.most_evaluations * evidence
    baselines = [BASELINES[name] for name in evolution.names if name in BASELINES and name != RANDOM]

    def cost(epochs: int) -> float:
        begin = evolution.begin(sparsity)
        starts = [_training_cost(problem, name, begin, epochs) for name in evolution.names if name in starting_schedules()]
        starts += [baseline.search_cost(problem, begin, epochs) for baseline in baselines]
        return math.inf if epochs < brief else search + sum(starts) + epochs * density

    return cost


def _inherited_cost(problem: Problem, evolution: Evolution, brief: int, sparsity: float, epochs: int, restart: bool) -> float:
    """Returns the cost of a population that trains through the recipe, and of its winner for the rest."""
    if epochs < brief:
        return math.inf
    through, n = evolution.through(epochs, brief), len(problem.part("train")[0])
    if evolution.first_sparsity is not None and through.generations < through.rising:
        return math.inf  # refused
    kept = [through.survivors_at(gen, sparsity, problem.prunable_count) for gen in range(1, through.generations + 1)]
    densities = [1 - sparsity if survivors is None else survivors / problem.prunable_count for survivors in kept]
    evidence = through.most_evaluations * min(BATCH, n) / n if through.evidence(sparsity) else 0.0
    population = through.first * (1 - through.begin(sparsity)) + through.children * math.fsum(densities)
    rest = epochs if restart else epochs - brief * (through.generations + 1)
    return population * brief + evidence + rest * (1 - sparsity)


def _training_cost(problem: Problem, name: str, sparsity: float, epochs: int) -> float:
    """Returns the cost of a schedule until its masks stay, in epochs of dense training."""
    if name == "dissipate":
        return math.fsum(densities(1.0, 1 - sparsity, min(DISSIPATE_EPOCHS, epochs)))
    method = method_of(name, SCHEDULES[name])
    options = replace(method.Options(), sparsity=sparsity)
    last: int = min(method.plan(problem, options).last, epochs)
    whole: float = method.cost(problem, options)(epochs)
    return whole - (epochs - last) * (1 - sparsity)
