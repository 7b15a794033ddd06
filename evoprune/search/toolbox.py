"""A DEAP toolbox for a problem."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from deap import base, tools

from evoprune import seeds
from evoprune.engines import auto
from evoprune.evaluation.evaluator import Evaluator
from evoprune.masks.random import layer_survivors, random_mask, survivors_of
from evoprune.problem.problem import Problem
from evoprune.training.dissipation import Dissipation
from evoprune.workers.base import Workers
from evoprune.workers.choose import choose_workers
from evoprune.workers.policy import evaluate
from evoprune.workers.serial import Serial


class ChunkedMap:
    """A map for ``toolbox.map``: like the built-in one, and in chunks over the workers where the function evaluates masks.

    As a context manager it ends workers that are its own, of a local cluster, when it is left.

    Args:
        workers: Who evaluates.
        owns_workers: They are its own.
    """

    def __init__(self, workers: Workers | None = None, owns_workers: bool = False) -> None:
        self.workers, self.owns_workers = Serial() if workers is None else workers, owns_workers

    def __enter__(self) -> ChunkedMap:
        return self

    def __exit__(self, *error: object) -> None:
        if self.owns_workers:
            self.workers.close()

    def __call__(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> list[Any]:
        """Returns ``list(map(function, *iterables))``."""
        evaluator = function
        while isinstance(evaluator, functools.partial):  # what toolbox.register makes of a function
            evaluator = evaluator.func
        if not isinstance(evaluator, Evaluator):
            return list(map(function, *iterables))
        (masks,) = iterables
        masks = list(masks)
        evaluator.check_survivors(masks)
        evaluations = evaluator.evaluate(masks, functools.partial(evaluate, self.workers))
        return [evaluator.rate(mask, evaluation) for mask, evaluation in zip(masks, evaluations, strict=True)]


def make_toolbox(
    problem: Problem,
    *,
    sparsity: float = 0.9,
    layer_densities: str = "varied",
    fitness: str | Sequence[str] = "magnitude",
    fitness_epochs: int = 2,
    seed: int | None = None,
    engine: str = "auto",
    workers: str | Workers = "auto",
    evaluation_timeout: float | None = None,
    threads: int = 1,
    chunk_size: int = 8,
    dissipation: Dissipation | None = None,
    evidence: float = 0.0,
    drop: str = "absolute",
    repair: bool = False,
) -> base.Toolbox:
    """Returns a ``deap.base.Toolbox`` with ``individual``, ``population``, ``evaluate``, ``map`` and ``select``.

    ``mate`` and ``mutate`` are for the caller to register; DEAP's algorithms then run on it unchanged. The map sends whole
    chunks of masks to the workers; another map (the built-in one, ``futures.map``, a pool's) may be registered in its place
    and sends one mask a call; so does any map where ``evaluate`` is decorated. A process that was forked uses one thread.

    The toolbox pickles, for whole algorithms in workers (with ``workers="serial"``); a copy draws from copies of its streams.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        layer_densities: See :func:`evoprune.masks.random.layer_survivors`.
        fitness: See :data:`evoprune.evaluation.terms.FITNESS`; several names for as many objectives. One of several terms needs
            the toolbox's own map, which sees the initial population as a whole.
        fitness_epochs: Epochs of the brief training; 0 judges untrained networks, by loss, accuracy or magnitude.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.registry.ENGINES`; ``auto`` chooses by measured costs.
        workers: See :func:`evoprune.workers.choose.choose_workers`.
        evaluation_timeout: Likewise.
        threads: See :class:`evoprune.evaluation.evaluator.Evaluator`.
        chunk_size: Likewise.
        dissipation: What is removed during the brief training; None for nothing.
        evidence: Fraction of the survivors that evidence for :func:`evoprune.operators.informed` is to name; the toolbox's own
            map sets it as ``mask.evidence``. 0 takes none.
        drop: What evidence ranks survivors by; see :class:`evoprune.evaluation.job.BriefTraining`.
        repair: Mend masks whose number of survivors an operator has changed, such as DEAP's own, where they are evaluated; else
            the first is warned of. See :class:`evoprune.Evaluator`, and :func:`evoprune.operators.keep_survivors`,
            which mends them where they are made.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    seed = problem.seed if seed is None else seeds.check_seed(seed)
    layer_survivors(problem.shapes, sparsity, layer_densities, np.random.default_rng(0))  # refuses bad values now
    evaluator = Evaluator(
        problem,
        fitness=fitness,
        epochs=fitness_epochs,
        engine=auto.resolve(engine, problem, sparsity, chunk_size),
        threads=threads,
        chunk_size=chunk_size,
        seed=seed,
        dissipation=dissipation,
        evidence=evidence,
        drop=drop,
        survivors=survivors_of(sparsity, problem.prunable_count),
        repair=repair,
    )
    masks = seeds.generator(seed, "masks")
    selection = random.Random(seeds.integer(seed, "selection"))
    toolbox = base.Toolbox()
    toolbox.register("individual", random_mask, problem.shapes, sparsity, masks, layer_densities)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", evaluator)
    toolbox.register("map", ChunkedMap(choose_workers(workers, evaluation_timeout), isinstance(workers, str)))
    toolbox.register("select", Seeded(tools.selTournament, selection), tournsize=3)
    return toolbox


class Seeded:
    """An operator that draws from a stream where DEAP's draws from the global ``random``.

    Args:
        operator: The operator.
        stream: The stream.
    """

    # no __dict__: Toolbox.register would copy it onto its partial
    __slots__ = ("operator", "stream")

    def __init__(self, operator: Callable[..., Any], stream: random.Random) -> None:
        self.operator, self.stream = operator, stream

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the operator."""
        with seeds.global_random(self.stream):
            return self.operator(*arguments, **options)
