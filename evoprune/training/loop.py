"""The one training loop: every engine, method and control goes through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.move import move
from evoprune.engines.population import Population
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.seeds import batch_order, noise
from evoprune.training.cost import multiply_adds
from evoprune.training.schedule import Prune

AfterEpoch: TypeAlias = Callable[[int, Population, NDArray[np.float64]], None]


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        population: The trained networks.
        gradients: For each of ``population.weights``, the sum of |g| over the steps of the last epoch; g is the gradient
            of the batch's mean loss, without weight decay.
        train_loss: Mean over the last epoch's steps of the batch's loss, [K].
        epoch_costs: Multiply-adds on surviving weights of each epoch, [epochs, K]; see :func:`multiply_adds`.
    """

    population: Population
    gradients: list[Tensor]
    train_loss: NDArray[np.float64]
    epoch_costs: NDArray[np.float64]


def train(
    population: Population,
    problem: Problem,
    epochs: int,
    seed: int,
    after_epoch: AfterEpoch | None = None,
    prune: Prune | None = None,
    engine_for: Callable[[int, Sequence[Mask]], str | None] | None = None,
) -> Trained:
    """Trains the first epochs of the problem's recipe, in place.

    Removed weights are exactly zero after every step, whatever the optimiser remembers of them.

    Args:
        population: The networks, as an engine made them.
        problem: Its training data, loss and recipe are used; the schedule spans the recipe's epochs, not ``epochs``.
        epochs: How many epochs to train, from the first.
        seed: Seeds the order of the batches and dropout's noise; the same for individuals that are to be compared.
        after_epoch: Called after each epoch, and what it prunes, with the number of epochs trained, the population and that
            epoch's mean training loss [K].
        prune: Called at the end of each epoch; the masks that it returns, subsets of what they were, hold from then on.
        engine_for: Names the engine to go on with, of the number of epochs trained and the masks; called where the masks have
            changed. None keeps the engine.
    """
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    gradients = [] if epochs else [torch.zeros_like(weight) for weight in population.weights]
    train_loss = np.full(population.size, np.nan)
    costs = np.zeros((epochs, population.size))
    pruned = False
    for epoch in range(epochs):
        if pruned and engine_for is not None and (name := engine_for(epoch, population.masks)) is not None:
            population, optimizer = move(population, optimizer, problem, name)
        if epoch == epochs - 1:
            gradients = [torch.zeros_like(weight) for weight in population.weights]
        costs[epoch] = [multiply_adds(problem, mask) for mask in population.masks]
        train_loss = _train_epoch(population, problem, optimizer, epoch, seed, gradients)
        masks = None if prune is None else prune(epoch + 1, population)
        pruned = masks is not None
        if masks is not None:
            gradients = population.set_masks(masks, optimizer, gradients)
        if after_epoch is not None:
            after_epoch(epoch + 1, population, train_loss)
    return Trained(population, gradients, train_loss, costs)


def _train_epoch(
    population: Population,
    problem: Problem,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seed: int,
    gradients: Sequence[Tensor],
) -> NDArray[np.float64]:
    """Trains one epoch, counted from 0, and adds |g| to the gradients, if there are any; returns mean losses [K]."""
    x, target = problem.part("train")
    parameters = list(population.parameters())
    batch = problem.recipe.batch_size
    steps = -(-len(x) // batch)
    losses = torch.zeros(population.size, dtype=torch.float64, device=x.device)
    population.train()
    with noise(seed, epoch):
        for step, rows in enumerate(batch_order(len(x), batch, seed, epoch, x.device)):
            for group in optimizer.param_groups:
                group["lr"] = problem.recipe.learning_rate(epoch * steps + step, steps)
            for parameter in parameters:
                parameter.grad = None
            outputs = population(x.index_select(0, rows))
            loss = problem.losses(outputs, target.index_select(0, rows))
            loss.sum().backward()  # type: ignore[no-untyped-call]
            population.mask_gradients()
            for total, weight in zip(gradients, population.weights, strict=False):
                if weight.grad is not None:
                    total.add_(weight.grad.abs())
            optimizer.step()
            population.mask_weights()
            losses += loss.detach()
    return (losses / steps).cpu().numpy()
