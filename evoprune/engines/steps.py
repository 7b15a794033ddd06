"""Steps of training: by an engine's own kernels, or by torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.optimizer import clip_gradients
from evoprune.engines.population import Population, Stint
from evoprune.problem.problem import Problem


def train_steps(
    population: Population, problem: Problem, stint: Stint, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]
) -> NDArray[np.float64]:
    """Trains a population for some steps, in place.

    A population with a method ``train_steps`` of the same arguments, but for the population, trains itself.

    Args:
        population: The networks, in training mode.
        problem: Its training data and loss are used.
        stint: The steps.
        optimizer: The optimiser over the population's parameters.
        gradients: For each of ``population.weights`` a sum, to which |g| of each step is added; none if they are not wanted.

    Returns:
        The sums [K] of the steps' mean losses.
    """
    own = getattr(population, "train_steps", None)
    if own is not None:
        losses: NDArray[np.float64] = own(problem, stint, optimizer, gradients)
        return losses
    return _train_by_torch(population, problem, stint, optimizer, gradients)


def _train_by_torch(
    population: Population, problem: Problem, stint: Stint, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]
) -> NDArray[np.float64]:
    parameters = list(population.parameters())
    losses = torch.zeros(population.size, dtype=torch.float64, device=problem.device)
    for (x, target), rate in zip(stint.batches(problem), stint.rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter in parameters:
            parameter.grad = None
        loss = problem.losses(population(x), target)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        population.mask_gradients()
        for total, weight in zip(gradients, population.weights, strict=False):
            if weight.grad is not None:
                total.add_(weight.grad.abs())
        clip_gradients(population, problem.recipe)
        optimizer.step()
        population.mask_weights()
        losses += loss.detach()
    return losses.cpu().numpy()
