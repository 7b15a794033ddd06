"""Moving a population to another engine in the middle of training."""

from __future__ import annotations

import torch

from evoprune.engines.memory import make_optimizer, read_memory
from evoprune.engines.population import Population
from evoprune.engines.registry import ENGINES
from evoprune.problem.problem import Problem


def move(
    population: Population, optimizer: torch.optim.Optimizer, problem: Problem, name: str
) -> tuple[Population, torch.optim.Optimizer]:
    """Moves a population to another engine in the middle of training.

    Args:
        population: The population.
        optimizer: The optimiser that trains it.
        problem: Their problem.
        name: Name of the other engine.

    Returns:
        The population under the other engine, and an optimiser with the memory of the first one; the same two if they have
        that engine already.
    """
    if type(population) is ENGINES[name].kind:
        return population, optimizer
    other = ENGINES[name].build(problem, population.masks)
    other.load([population.state(k) for k in range(population.size)])
    return other, make_optimizer(other, problem, read_memory(population, optimizer))
