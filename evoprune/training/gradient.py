"""The dense gradient: the loss's gradient in all prunable weights, the removed ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.population import Population
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.fused import without_cudnn
from evoprune.problem.problem import Problem
from evoprune.seeds import batch_order, noise
from evoprune.training.cost import multiply_adds

# Training examples of the dense gradient.
BATCH = 500


def dense_gradient(
    problem: Problem, state: Mapping[str, Tensor], seed: int, batch: int = BATCH, draw: int = 0
) -> NDArray[np.floating[Any]]:
    """Returns the size of the mean loss's gradient in all prunable weights [n], removed ones included, without weight decay.

    The network is in evaluation mode, as for the validation loss: without dropout's noise or this batch's statistics.

    Args:
        problem: The problem; its training examples and loss are used.
        state: The network's ``state_dict``, removed weights zero.
        seed: Seeds the batch: the first examples of an epoch's order under that seed.
        batch: Number of examples; all of them, if there are fewer.
        draw: The number of that epoch; another number takes another batch.

    Raises:
        InputError: The batch is no positive number.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch is {batch!r}; expected a positive integer.")
    network = problem.network().eval()
    network.load_state_dict(dict(state))
    parameters = dict(network.named_parameters())
    weights = [parameters[name].requires_grad_() for name in problem.shapes]  # frozen ones may be pruned, too
    x, _ = problem.part("train")
    with without_cudnn(network), noise(seed, draw, problem.device):  # a user's module may draw even in evaluation mode
        x, target = problem.batch(next(batch_order(len(x), batch, seed, draw, x.device)))
        loss = problem.loss(network(x), target)
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    found: NDArray[np.floating[Any]] = torch.cat([gradient.flatten() for gradient in gradients]).abs().cpu().numpy()
    return found


def population_gradient(
    problem: Problem, population: Population, k: int, seed: int, batch: int = BATCH, draw: int = 0
) -> NDArray[np.floating[Any]]:
    """Returns :func:`dense_gradient` of an individual; an engine that has kernels for it computes it by them.

    Args:
        problem: The problem.
        population: The population, whose mode may be changed.
        k: The individual.
        seed: See :func:`dense_gradient`, as for the further arguments.
        batch: Number of examples.
        draw: The number of the batch.
    """
    own = getattr(population, "dense_gradient", None)
    if own is not None:
        x, _ = problem.part("train")
        found: NDArray[np.floating[Any]] | None = own(k, problem, next(batch_order(len(x), batch, seed, draw, x.device)))
        if found is not None:
            return found
    return dense_gradient(problem, population.state(k), seed, batch, draw)


def dense_gradient_cost(problem: Problem, batch: int = BATCH) -> float:
    """Returns the multiply-adds of one dense gradient, counted as :func:`evoprune.training.cost.multiply_adds` does."""
    dense = Mask(np.ones(problem.prunable_count, bool), problem.shapes)
    n = len(problem.part("train")[0])
    return multiply_adds(problem, dense) * min(batch, n) / n
