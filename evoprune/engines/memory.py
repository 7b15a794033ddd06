"""The optimiser's memory of a population, as each individual's own network would have it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from evoprune.engines.optimizer import optimizer_of
from evoprune.engines.population import Population
from evoprune.problem.problem import Problem

# For each entry of the optimiser's state: a number that all parameters share, such as a count of steps, or for each individual
# dense tensors by the parameters' names.
Memory: TypeAlias = Mapping[str, Any]


def read_memory(population: Population, optimizer: torch.optim.Optimizer) -> Memory:
    """Returns the memory of an optimiser that trains a population."""
    parameters = list(population.parameters())
    memories = [optimizer.state.get(parameter, {}) for parameter in parameters]
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for memory in memories for key in memory):
        first = next(memory[key] for memory in memories if key in memory)
        if not isinstance(first, Tensor) or first.ndim == 0:
            found[key] = first
        else:
            values = [memory.get(key, torch.zeros_like(p)) for memory, p in zip(memories, parameters, strict=True)]
            found[key] = [population.unpack(k, values) for k in range(population.size)]
    return found


def make_optimizer(population: Population, problem: Problem, memory: Memory) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser of a population, with a memory."""
    parameters = list(population.parameters())
    optimizer = optimizer_of(population, problem)
    for key, value in memory.items():
        packed: Sequence[Any]
        packed = population.pack(value) if isinstance(value, list) else [copy.deepcopy(value) for _ in parameters]
        for parameter, its in zip(parameters, packed, strict=True):
            optimizer.state[parameter][key] = its
    return optimizer
