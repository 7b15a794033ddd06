"""The one training loop: every engine, method and control goes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines import Population
from evoprune.problem import Problem

MEASURE_BATCH = 1000


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        population: The trained networks.
        gradients: For each of ``population.weights``, the sum of |g| over the steps of the last epoch; g is the gradient
            of the batch's mean loss, without weight decay.
        train_loss: Mean over the last epoch's steps of the batch's loss, [K].
    """

    population: Population
    gradients: list[Tensor]
    train_loss: NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Mean loss [K], and accuracy [K] from 0 to 1 (NaN where the targets are not classes, or the loss is not finite)."""

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def train(
    population: Population,
    problem: Problem,
    epochs: int,
    seed: int,
    after_epoch: Callable[[int, NDArray[np.float64]], None] | None = None,
) -> Trained:
    """Trains the first epochs of the problem's recipe, in place.

    Removed weights are exactly zero after every step, whatever the optimiser remembers of them.

    Args:
        population: The networks, as an engine made them.
        problem: Its training data, loss and recipe are used; the schedule spans the recipe's epochs, not ``epochs``.
        epochs: How many epochs to train, from the first.
        seed: Seeds the order of the batches and dropout's noise; the same for individuals that are to be compared.
        after_epoch: Called after each epoch with the number of epochs trained and that epoch's mean training loss [K].
    """
    x, target = problem.part("train")
    parameters = list(population.parameters())
    optimizer = problem.recipe.make_optimizer(parameters)
    batch = problem.recipe.batch_size
    steps = -(-len(x) // batch)
    gradients = [torch.zeros_like(weight) for weight in population.weights]
    train_loss = np.full(population.size, np.nan)
    for epoch in range(epochs):
        accumulate = epoch == epochs - 1
        losses = torch.zeros(population.size, dtype=torch.float64, device=x.device)
        population.train()
        with noise(seed, epoch):
            for step, rows in enumerate(batch_order(len(x), batch, seed, epoch, x.device)):
                for group in optimizer.param_groups:
                    group["lr"] = problem.recipe.learning_rate(epoch * steps + step, steps)
                for parameter in parameters:
                    parameter.grad = None
                outputs = population(x.index_select(0, rows))
                loss = individual_losses(problem, outputs, target.index_select(0, rows))
                loss.sum().backward()  # type: ignore[no-untyped-call]
                population.mask_gradients()
                if accumulate:
                    for total, weight in zip(gradients, population.weights, strict=True):
                        if weight.grad is not None:
                            total.add_(weight.grad.abs())
                optimizer.step()
                population.mask_weights()
                losses += loss.detach()
        train_loss = (losses / steps).cpu().numpy()
        if after_epoch is not None:
            after_epoch(epoch + 1, train_loss)
    return Trained(population, gradients, train_loss)


def measure(population: Population, problem: Problem, part: str) -> Measured:
    """Measures mean loss and accuracy on ``train``, ``validation`` or ``test``, in evaluation mode."""
    x, target = problem.part(part)
    losses = torch.zeros(population.size, dtype=torch.float64, device=x.device)
    correct = torch.zeros_like(losses)
    population.train(False)
    with torch.no_grad():
        for start in range(0, len(x), MEASURE_BATCH):
            rows = slice(start, start + MEASURE_BATCH)
            outputs = population(x[rows])
            losses += individual_losses(problem, outputs, target[rows]).double() * len(target[rows])
            if problem.is_classification:
                correct += _count_correct(outputs, target[rows])
    if not problem.is_classification:
        correct.fill_(torch.nan)
    correct[~losses.isfinite()] = torch.nan  # the largest of several NaN is no prediction
    return Measured((losses / len(x)).cpu().numpy(), (correct / target.numel()).cpu().numpy())


def individual_losses(problem: Problem, outputs: Tensor, target: Tensor) -> Tensor:
    """Returns the mean loss [K] of outputs [K, batch, ...] against one target [batch, ...]."""
    if problem.loss_name == "cross-entropy" and outputs.ndim == 3 and target.ndim == 1:
        logarithms = outputs.transpose(1, 2).log_softmax(1)  # classes in the middle, as the sparse engine's memory has them
        return -logarithms.gather(1, target.expand(len(outputs), 1, -1)).squeeze(1).mean(1)
    if problem.loss_name in ("mse", "reconstruction"):
        # in two steps, so that each sum is short enough to be one thread's
        return (outputs - target).square().flatten(2).mean(2).mean(1)
    return torch.stack([problem.loss(output, target) for output in outputs])


def batch_order(n: int, batch: int, seed: int, epoch: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the row numbers of each batch of an epoch: a permutation that depends on seed and epoch alone."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    yield from torch.split(torch.from_numpy(order).to(device), batch)


@contextmanager
def noise(seed: int, epoch: int) -> Iterator[None]:
    """Seeds torch's global generators, from which dropout draws, and restores them afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.default_rng([seed, epoch, 1]).integers(2**63)))
        yield


def _count_correct(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs.argmax(dim=2) == target).flatten(1).sum(dim=1)
