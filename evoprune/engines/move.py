"""Moving a population to another engine in the middle of training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

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
    before, now = list(population.parameters()), list(other.parameters())
    successor = problem.recipe.make_optimizer(now)
    memories = [optimizer.state.get(parameter, {}) for parameter in before]
    for key in dict.fromkeys(key for memory in memories for key in memory):
        first = next(memory[key] for memory in memories if key in memory)
        if not isinstance(first, Tensor) or first.ndim == 0:  # a step count
            packed = [copy.deepcopy(first) for _ in now]
        else:
            values = [memory.get(key, torch.zeros_like(p)) for memory, p in zip(memories, before, strict=True)]
            packed = other.pack([population.unpack(k, values) for k in range(population.size)])
        for parameter, value in zip(now, packed, strict=True):
            successor.state[parameter][key] = value
    return other, successor
