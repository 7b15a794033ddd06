"""Dissipating gradients as a method: train the dense network, and remove the weights that barely moved."""

from __future__ import annotations

import os
from dataclasses import asdict

from evoprune.baselines.random_masks import dense
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.one_mask import Found, train_found
from evoprune.search.session import Plan, Where
from evoprune.training.dissipation import Dissipation


def dissipate(
    problem: Problem,
    *,
    sparsity: float | None = None,
    fraction: float | None = None,
    dissipate_epochs: int = 8,
    movement: str = "absolute",
    scope: str = "global",
    restart: bool = False,
    seed: int | None = None,
    engine: str = "auto",
    threads: int = 1,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Trains the dense network, and removes in the first epochs the weights that barely moved (arXiv:2209.02201).

    ::

        for each epoch of the recipe:
            train the network
            in the first epochs: remove the survivors that moved least, for good

    Args:
        problem: The problem; its recipe's epochs include the dissipating.
        sparsity: Sparsity to reach; each epoch's threshold is found for it. None: 0.9, where no fraction is given.
        fraction: Remove what moved by at most this fraction; the sparsity emerges.
        dissipate_epochs: Number of removals: one at the end of each of so many first epochs.
        movement: See :class:`evoprune.training.dissipation.Dissipation`; its ``random`` is the control.
        scope: Likewise.
        restart: Train what is left from W0 for all epochs with another order of the batches, for comparison.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.registry.ENGINES`; ``auto`` chooses by measured costs, and again as the network
            gets sparser.
        threads: Threads that torch uses.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The mask, its trained network and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: The final training diverged.
    """
    sparsity = 0.9 if sparsity is None and fraction is None else sparsity
    dissipation = Dissipation(dissipate_epochs, sparsity, fraction, movement, scope)
    dissipation.require(problem, 0.0)
    settings = {**asdict(dissipation), "restart": restart}
    method = "random-dropout" if movement == "random" else "dissipate"
    found = Found(dense(problem))
    plan = Plan(method, 1, restart, False, dissipation, 0 if engine == "auto" else None)
    where = Where("serial", threads, out, force, progress)
    return train_found(problem, plan, lambda: found, settings, seed, engine, where)
