"""The one training loop: every engine, method and control goes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines import Population, move
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.recipe import MEASURE_BATCH
from evoprune.seeds import noise

# Called at the end of each epoch (counted from 1); returns the masks from now on, or None to leave them as they are.
Prune: TypeAlias = Callable[[int, Population], Sequence[Mask] | None]
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
            kept = population.keep(masks, optimizer)
            gradients = [gradient[index] for gradient, index in zip(gradients, kept, strict=False)]
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


def multiply_adds(problem: Problem, mask: Mask) -> float:
    """Returns the multiply-adds on surviving weights of one epoch of training.

    Every use of a weight by an example counts three times: forward, gradient of the inputs, gradient of the weight (as is
    usual, also in the first layer, whose inputs need no gradient). Biases, activations and the optimiser are not counted.
    """
    counts = (np.count_nonzero(layer) * problem.uses[name] for name, layer in mask.layers.items())
    return 3.0 * float(sum(counts)) * len(problem.part("train")[0])


def measure(population: Population, problem: Problem, part: str) -> Measured:
    """Measures mean loss and accuracy on ``train``, ``validation`` or ``test``, in evaluation mode.

    A network that draws even so draws the same each time.
    """
    x, target = problem.part(part)
    losses = torch.zeros(population.size, dtype=torch.float64, device=x.device)
    correct = torch.zeros_like(losses)
    population.train(False)
    with torch.no_grad(), noise(0, 0):
        for start in range(0, len(x), MEASURE_BATCH):
            rows = slice(start, start + MEASURE_BATCH)
            outputs = population(x[rows])
            losses += problem.losses(outputs, target[rows]).double() * len(target[rows])
            if problem.is_classification:
                correct += _count_correct(outputs, target[rows])
    if not problem.is_classification:
        correct.fill_(torch.nan)
    correct[~losses.isfinite()] = torch.nan  # the largest of several NaN is no prediction
    return Measured((losses / len(x)).cpu().numpy(), (correct / target.numel()).cpu().numpy())


def batch_order(n: int, batch: int, seed: int, epoch: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the row numbers of each batch of an epoch: a permutation that depends on seed and epoch alone."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    yield from torch.split(torch.from_numpy(order).to(device), batch)


def _count_correct(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs.argmax(dim=2) == target).flatten(1).sum(dim=1)
