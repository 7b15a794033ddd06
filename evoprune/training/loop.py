"""The one training loop: every engine, method and control goes through it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.move import move
from evoprune.engines.optimizer import optimizer_of
from evoprune.engines.population import Population, Stint
from evoprune.engines.snapshot import Begun
from evoprune.engines.steps import train_steps
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.seeds import augmentation_seeds, batch_order, noise
from evoprune.training.cost import multiply_adds
from evoprune.training.gradient import dense_gradient_cost, population_gradient
from evoprune.training.schedule import Moment, Schedule

AfterEpoch: TypeAlias = Callable[[int, Population, NDArray[np.float64]], bool | None]


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        population: The trained networks.
        gradients: For each of ``population.weights``, the sum of |g| over the steps of the last epoch; g is the gradient
            of the batch's mean loss, without weight decay, before it is clipped. Empty if the training ended early.
        train_loss: Mean over the last epoch's steps of the batch's loss, [K].
        epoch_costs: Multiply-adds of each epoch, [epochs, K]: those on surviving weights, see
            :func:`evoprune.training.cost.multiply_adds`, and those of the dense gradients that a schedule took.
        optimizer: The optimiser that trained it.
    """

    population: Population
    gradients: list[Tensor]
    train_loss: NDArray[np.float64]
    epoch_costs: NDArray[np.float64]
    optimizer: torch.optim.Optimizer


def train(
    networks: Population | Begun,
    problem: Problem,
    epochs: int,
    seed: int,
    after_epoch: AfterEpoch | None = None,
    schedule: Schedule | None = None,
    engine_for: Callable[[int, Sequence[Mask]], str | None] | None = None,
) -> Trained:
    """Trains some epochs of the problem's recipe, by default the first, in place.

    Removed weights are exactly zero after every step, whatever the optimiser remembers of them.

    Args:
        networks: The networks, as an engine made them, or as they are after earlier epochs.
        problem: Its training data, loss and recipe are used; the schedule of the learning rate spans the recipe's epochs, not
            ``epochs``.
        epochs: How many epochs to train.
        seed: Seeds the order of the batches and dropout's noise; the same for individuals that are to be compared.
        after_epoch: Called after each epoch, and any change of the masks at its end, with the number of epochs trained, the
            population and that epoch's mean training loss [K]. If it returns True, training ends there.
        schedule: Changes the masks while the networks train; None keeps them.
        engine_for: Names the engine to continue with, given the number of epochs trained and the masks; called before an
            epoch if the masks have changed in the one before. None keeps the engine.

    Raises:
        InputError: The schedule returned no masks of the network, or not one for each individual.
    """
    begun = networks if isinstance(networks, Begun) else Begun(networks)
    population, first = begun.population, begun.epochs
    optimizer = begun.optimizer or optimizer_of(population, problem)
    loop = _Loop(population, optimizer, problem, seed, schedule, np.zeros((first + epochs, population.size)))
    train_loss = np.full(population.size, np.nan)
    for epoch in range(first, first + epochs):
        if loop.has_changed and engine_for is not None and (name := engine_for(epoch, loop.population.masks)) is not None:
            loop.population, loop.optimizer = move(loop.population, loop.optimizer, problem, name)
        if epoch == first + epochs - 1:
            loop.gradients = [torch.zeros_like(weight) for weight in loop.population.weights]
        train_loss = loop.train_epoch(epoch)
        if after_epoch is not None and after_epoch(epoch + 1, loop.population, train_loss):
            loop.costs = loop.costs[: epoch + 1]
            break
    gradients = loop.gradients if epochs else [torch.zeros_like(weight) for weight in population.weights]
    return Trained(loop.population, gradients, train_loss, loop.costs[first:], loop.optimizer)


class _Loop:
    """A training on its way.

    Attributes:
        population: The networks; another engine may continue with them between epochs.
        optimizer: Their optimiser.
        gradients: Sums of |g|, which grow by those of each step; none until they are wanted.
        costs: Multiply-adds [epochs, K] so far.
        has_changed: The masks have changed in the last epoch.
    """

    def __init__(
        self,
        population: Population,
        optimizer: torch.optim.Optimizer,
        problem: Problem,
        seed: int,
        schedule: Schedule | None,
        costs: NDArray[np.float64],
    ) -> None:
        self.population, self.optimizer, self.costs = population, optimizer, costs
        self.gradients: list[Tensor] = []
        self.has_changed = False
        self._problem, self._seed, self._schedule = problem, seed, schedule
        self._counted = 0  # examples of the epoch whose cost has been counted

    def train_epoch(self, epoch: int) -> NDArray[np.float64]:
        """Trains one epoch, counted from 0; returns mean losses [K]."""
        problem, population = self._problem, self.population
        x, _ = problem.part("train")
        batch = problem.recipe.batch_size
        steps = -(-len(x) // batch)
        losses = np.zeros(population.size)
        self.has_changed, self._counted = False, 0
        population.train()
        rows = list(batch_order(len(x), batch, self._seed, epoch, x.device))
        every = steps if self._schedule is None else self._schedule.every or steps
        with noise(self._seed, epoch, problem.device):
            done = 0
            while done < steps:
                first = epoch * steps + done
                until = min(steps, done + every - first % every)
                rates = [problem.recipe.learning_rate(epoch * steps + step, steps) for step in range(done, until)]
                draws = augmentation_seeds(self._seed, epoch, done, until) if problem.is_drawn else None
                stint = Stint(rows[done:until], rates, draws)
                losses += train_steps(population, problem, stint, self.optimizer, self.gradients)
                done = until
                if self._schedule is not None and (epoch * steps + done) % every == 0:
                    self._count(epoch, min(done * batch, len(x)))
                    self._change_masks(self._schedule, epoch, epoch * steps + done, steps)
        self._count(epoch, len(x))
        return losses / steps

    def _count(self, epoch: int, examples: int) -> None:
        """Adds the cost of the epoch's examples up to a number of them, under the masks as they are."""
        n = len(self._problem.part("train")[0])
        if examples > self._counted:
            share = (examples - self._counted) / n
            self.costs[epoch] += [share * multiply_adds(self._problem, mask) for mask in self.population.masks]
            self._counted = examples

    def _change_masks(self, schedule: Schedule, epoch: int, step: int, steps: int) -> None:
        """Lets a schedule change the masks after a number of steps, so many of which are an epoch."""
        problem, population, seed = self._problem, self.population, self._seed

        @functools.cache
        def gradients(k: int) -> NDArray[np.floating[Any]]:
            self.costs[epoch, k] += dense_gradient_cost(problem)
            return population_gradient(problem, population, k, seed, draw=step)

        with noise(seed, step, problem.device):  # a user's schedule may draw
            masks = schedule.masks_after(Moment(problem, population, step // steps, step, seed, gradients))
        population.train()  # the schedule may have measured it
        if masks is not None:
            masks = _checked(masks, population, problem)
            self.gradients = population.set_masks(masks, self.optimizer, self.gradients)
            self.has_changed = True


def _checked(masks: Sequence[Mask], population: Population, problem: Problem) -> list[Mask]:
    """Returns copies of the masks that a schedule returned, if they are masks of the network, one an individual."""
    given = list(masks)
    if len(given) != population.size or not all(isinstance(mask, Mask) for mask in given):
        kinds = " and ".join(sorted({type(mask).__name__ for mask in given}))
        raise InputError(
            f"a schedule returned {len(given)} {kinds or 'masks'}; expected a list of {population.size} masks (ep.Mask), one "
            f"for each individual."
        )
    for mask in given:
        mask.require(problem.shapes)
    return [Mask(mask.bits, mask.shapes) for mask in given]
