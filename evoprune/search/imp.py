"""Iterative magnitude pruning with rewinding as a method."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from evoprune.baselines.random_masks import dense
from evoprune.baselines.scores import falling_counts
from evoprune.engines import auto
from evoprune.engines.registry import ENGINES
from evoprune.engines.snapshot import begin, take_snapshots
from evoprune.errors import InputError, RunError
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.masks.snapshot import Snapshot
from evoprune.problem.problem import Problem
from evoprune.runs.checkpoints import Content, pack_snapshot, unpack_snapshot
from evoprune.search.final import Plan
from evoprune.search.method import Cost, Found
from evoprune.search.session import Session
from evoprune.training.cost import multiply_adds
from evoprune.training.final import Training, train_fully
from evoprune.training.history import enter_costs, history_rows
from evoprune.training.loop import train
from evoprune.training.measure import measure
from evoprune.training.ranking import without_last
from evoprune.training.threads import torch_threads


@dataclass(frozen=True)
class ImpOptions:
    """Options of iterative magnitude pruning."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""
    rounds: int = 5
    """Trainings, after each of which the density falls by the same factor."""
    rewind: int = 1
    """Epochs after which the weights are those to which each round returns; 0 for W0."""
    restart: bool = False
    """Train the mask that results from W0, with another order of the batches, instead of from the rewound weights."""


class Imp:
    """Iterative magnitude pruning: train, remove the smallest weights, rewind the others to an early epoch, and repeat.

    Source: Frankle et al. 2020, arXiv:1912.05671, algorithm 2, with one threshold over all layers.

    Args:
        session: The session.
        options: The options.
    """

    Options = ImpOptions

    def __init__(self, session: Session, options: ImpOptions) -> None:
        self.session, self.options = session, options

    def find(self) -> Found:
        """Returns the mask, with the rewound weights as its snapshot; finished rounds in the journal are not done again.

        Raises:
            RunError: A training diverged.
        """
        session, options, problem = self.session, self.options, self.session.problem
        counts = falling_counts(problem, options.sparsity, options.rounds, "rounds")
        mask = dense(problem)
        snapshot = self._early(mask) if options.rewind else None
        spent = []
        with session.bar(len(counts), "rounds", unit="round") as bar:
            for i, count in enumerate(counts):
                facts, tensors = session.journal.step(f"round-{i}", partial(self._round, mask, snapshot, count))
                mask = Mask.from_packed(tensors["bits"].numpy(), problem.shapes)
                spent.append(facts["cost"])
                bar.update()
        mask.snapshot = None if options.restart else snapshot
        twice = 0 if snapshot is None else len(counts) - options.restart
        epochs, early = problem.recipe.epochs, options.rewind
        cost = math.fsum(spent) / (multiply_adds(problem, dense(problem)) or 1.0)  # look-ups alone cost nothing
        return Found(mask, len(counts) * epochs - twice * early, cost - twice * early)

    def _early(self, mask: Mask) -> Snapshot:
        """Returns the state of the dense network to which each round returns."""
        session, problem, epochs = self.session, self.session.problem, self.options.rewind

        def compute() -> Content:
            with torch_threads(session.threads):
                engine = ENGINES[self._engine(mask)]
                trained = train(begin(engine, problem, [mask]), problem, epochs, session.order, keep)
            enter_costs(history, trained.epoch_costs[:, 0].tolist())
            (snapshot,) = take_snapshots(trained.population, trained.optimizer, epochs, [history])
            return pack_snapshot("early", snapshot)

        history: list[dict[str, float | None]] = []

        def keep(epoch: int, population: Any, train_loss: Any) -> None:
            history.extend(history_rows(epoch, population, train_loss, measure(population, problem, "validation")))

        return unpack_snapshot("early", *session.journal.step("early", compute))

    def _round(self, mask: Mask, snapshot: Snapshot | None, count: int) -> Content:
        """Trains a mask to the end, and returns the mask of its largest weights, and the cost."""
        session, problem = self.session, self.session.problem
        snapshots = [] if snapshot is None else [snapshot]
        how = Training(self._engine(mask), session.order, session.threads, epochs=problem.recipe.epochs, snapshots=snapshots)
        training = train_fully(problem, mask, how)
        if divergence := training.divergence(tested=False):
            raise RunError(f"a round of iterative magnitude pruning diverged ({divergence}); lower lr.")
        weights = np.concatenate([training.state[name].abs().cpu().numpy().reshape(-1) for name in problem.shapes])
        order = np.argsort(-weights[mask.bits], kind="stable")[::-1]
        bits = np.packbits(without_last(mask, order, count, "global").bits)
        return {"cost": training.cost(problem.recipe.epochs)}, {"bits": torch.from_numpy(bits)}

    def _engine(self, mask: Mask) -> str:
        name = self.session.execution.engine
        return auto.choose(self.session.problem, mask.sparsity, 1) if name == "auto" else name

    @staticmethod
    def plan(problem: Problem, options: ImpOptions) -> Plan:
        """Returns how the mask is trained."""
        return Plan(options.restart)

    @staticmethod
    def require(problem: Problem, options: ImpOptions) -> None:
        """Checks the options.

        Raises:
            InputError: A value out of range.
        """
        survivors_of(options.sparsity, problem.prunable_count)
        falling_counts(problem, options.sparsity, options.rounds, "rounds")
        rewind, epochs = options.rewind, problem.recipe.epochs
        if isinstance(rewind, bool) or not isinstance(rewind, int) or not 0 <= rewind < epochs:
            raise InputError(f"rewind is {rewind!r}; expected a number of epochs from 0 to below the recipe's {epochs}.")

    @staticmethod
    def settings(problem: Problem, options: ImpOptions) -> dict[str, Any]:
        """Returns the options as a run records them."""
        return {**asdict(options), "sparsity": float(options.sparsity)}

    @staticmethod
    def cost(problem: Problem, options: ImpOptions) -> Cost:
        """Returns the planned cost."""
        n, early = problem.prunable_count, options.rewind
        counts = falling_counts(problem, options.sparsity, options.rounds, "rounds")
        densities = [1.0, *(count / n for count in counts)]

        def cost(epochs: int) -> float:
            if epochs <= early:
                return math.inf
            again = epochs * densities[-1] if options.restart else (epochs - early) * densities[-1]
            return early + (epochs - early) * math.fsum(densities[:-1]) + again

        return cost
