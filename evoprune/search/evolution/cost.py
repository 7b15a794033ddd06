"""The planned cost of an evolution."""

from __future__ import annotations

import math
from collections.abc import Callable

from evoprune.baselines.registry import BASELINES
from evoprune.problem.problem import Problem
from evoprune.search.evolution.options import RANDOM, Evolution
from evoprune.search.evolution.starts import DISSIPATE, DISSIPATE_EPOCHS
from evoprune.training.gradient import BATCH


def cost_of(problem: Problem, evolution: Evolution, brief: int, sparsity: float) -> Callable[[int], float]:
    """Returns the cost as a function of the recipe's epochs, at most: children that were there before cost nothing.

    Args:
        problem: The problem.
        evolution: The options of the evolution.
        brief: Epochs of the brief training.
        sparsity: The final sparsity.

    Returns:
        Epochs to epochs of dense training; infinite for fewer epochs than a brief training has.
    """
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
