"""Methods that find one mask and train it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.engines import auto
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result, describe_problem, describe_training, trained_model
from evoprune.runs.run import Run
from evoprune.search.final import train_chosen
from evoprune.search.session import Plan, Where
from evoprune.training.cost import multiply_adds


@dataclass(frozen=True)
class Found:
    """A mask, the epochs of training that it took to find it, and their cost in epochs of dense training."""

    mask: Mask
    search_epochs: float = 0.0
    search_cost: float = 0.0


def train_found(
    problem: Problem,
    plan: Plan,
    find: Callable[[], Found],
    settings: Mapping[str, Any],
    seed: int | None,
    engine: str,
    where: Where,
) -> Result:
    """Finds one mask and trains it; see :func:`evoprune.baseline` and :func:`evoprune.dissipate`.

    Args:
        problem: The problem.
        plan: What is done with the mask.
        find: Returns the mask.
        settings: What decides the mask, for the record.
        seed: Seed of the run; None takes the problem's.
        engine: Name of the engine, or ``auto``.
        where: Where it is done.
    """
    seed = problem.seed if seed is None else seeds.check_seed(seed)
    auto.resolve(engine, problem, 0.0, 1)  # refuses what cannot serve
    if isinstance(where.threads, bool) or not isinstance(where.threads, int) or where.threads < 1:
        raise InputError(f"threads is {where.threads!r}; expected a positive integer.")
    settings = {"problem": problem.config(), **settings, "seed": seed, "engine": engine}
    execution = {"workers": "serial", "threads": where.threads, "engine": engine}
    run = None if where.out is None else Run.plan(where.out, plan.method, settings, execution, where.force)
    with nullcontext() if run is None else run.of(problem):
        threads = where.threads if run is None else run.execution["threads"]
        result = _train_found(problem, plan, find, (engine, threads, seeds.integer(seed, "order")), seed, run, where.progress)
        if run is not None:
            run.save(result)
    return result


def _train_found(
    problem: Problem,
    plan: Plan,
    find: Callable[[], Found],
    how: tuple[str, int, int],
    seed: int,
    run: Run | None,
    progress: bool,
) -> Result:
    def search() -> tuple[dict[str, Any], dict[str, Tensor]]:
        start = time.perf_counter()
        found = find()
        facts = {"search_epochs": found.search_epochs, "search_cost": found.search_cost, "seconds": time.perf_counter() - start}
        return facts, {"bits": torch.from_numpy(np.packbits(found.mask.bits))}

    facts, tensors = search() if run is None else run.step("mask", search)
    bits = np.unpackbits(tensors["bits"].numpy(), count=problem.prunable_count).astype(bool)
    mask = Mask(bits, problem.shapes)
    training = train_chosen(problem, {"winner": mask}, plan, how, seed, run, progress)["winner"]
    dense = multiply_adds(problem, Mask(np.ones(problem.prunable_count, bool), problem.shapes))
    last = 0 if plan.dissipation is None else plan.dissipation.last
    search_epochs = facts["search_epochs"] + last
    cost = facts["search_cost"] * dense + training.search_cost + training.cost(problem.recipe.epochs)
    summary = {
        "method": plan.method,
        **describe_problem(problem, seed),
        **describe_training(problem, mask, training),
        "engine": ", ".join(training.engines),
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + problem.recipe.epochs - (0 if plan.restart else last),
        "multiply_adds": cost,
        "seconds": facts["seconds"] + training.seconds,
        "controls": {},
    }
    return Result(training.mask, trained_model(problem, training), {"winner": training}, summary)
