"""A baseline's mask, fully trained."""

from __future__ import annotations

import os

from evoprune import seeds
from evoprune.baselines.registry import BASELINES
from evoprune.errors import InputError, look_up
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.one_mask import Found, train_found
from evoprune.search.session import Plan, Where


def baseline(
    problem: Problem,
    method: str,
    *,
    sparsity: float = 0.9,
    seed: int | None = None,
    engine: str = "auto",
    threads: int = 1,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Finds the mask of a baseline, and trains it fully from W0.

    Args:
        problem: The problem.
        method: Name of the baseline, see :data:`evoprune.baselines.registry.BASELINES`.
        sparsity: Fraction of the prunable weights to remove, in [0, 1); ``dense`` removes none.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.registry.ENGINES`; ``auto`` chooses by measured costs.
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
    if isinstance(method, Mask):
        raise InputError("method is a mask; expected the name of a baseline. To train a mask: ep.train_mask(problem, mask).")
    known = look_up("baseline", method, BASELINES)
    seed = problem.seed if seed is None else seeds.check_seed(seed)
    survivors_of(sparsity, problem.prunable_count)  # refuses bad values now

    def find() -> Found:
        mask = known.prune(problem, sparsity=sparsity, seed=seed)
        epochs = problem.recipe.epochs
        return Found(mask, known.search_epochs(problem, epochs), known.search_cost(problem, sparsity, epochs))

    settings = {"sparsity": float(sparsity)}
    where = Where("serial", threads, out, force, progress)
    return train_found(problem, Plan(method, 1), find, settings, seed, engine, where)
