"""A DEAP toolbox for a problem."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from deap import base, tools

from evoprune import seeds
from evoprune.engines import auto
from evoprune.evaluation.evaluator import Evaluator
from evoprune.masks.random import layer_survivors, random_mask, survivors_of
from evoprune.options import split
from evoprune.problem.problem import Problem
from evoprune.search.execution import Execution
from evoprune.training.dissipation import Dissipation
from evoprune.workers.base import Workers
from evoprune.workers.choose import choose_workers
from evoprune.workers.policy import evaluate
from evoprune.workers.serial import Serial


class ChunkedMap:
    """A map for ``toolbox.map``: like the built-in one, and in chunks over the workers where the function evaluates masks.

    As a context manager, it ends the workers when it is left, if nobody else uses them.

    Args:
        workers: The processes that evaluate.
        owns_workers: Nobody else uses them.
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
        while isinstance(evaluator, functools.partial):  # toolbox.register makes a partial of a function
            evaluator = evaluator.func
        if not isinstance(evaluator, Evaluator):
            return list(map(function, *iterables))
        (masks,) = iterables
        masks = list(masks)
        evaluator.check_survivors(masks)
        evaluations = evaluator.evaluate(masks, functools.partial(evaluate, self.workers))
        return [evaluator.rate(mask, evaluation) for mask, evaluation in zip(masks, evaluations, strict=True)]


@dataclass(frozen=True)
class ToolboxOptions:
    """Options of a toolbox."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""
    layer_densities: str = "varied"
    """See :func:`evoprune.layer_survivors`."""
    fitness: Any = "magnitude"
    """See :data:`evoprune.evaluation.terms.FITNESS`; several names for as many objectives. A fitness of several terms, such as
    combined, needs the toolbox's own map, which sees the initial population as a whole; so the default has one term."""
    fitness_epochs: int = 2
    """Epochs of the brief training; 0 judges untrained networks, by loss, accuracy or magnitude."""
    chunk_size: int = 8
    """Masks that are trained together, if the engine can."""
    dissipation: Dissipation | None = None
    """Removals during the brief training; None for none."""
    evidence: float = 0.0
    """Fraction of the survivors that the evidence for :func:`evoprune.operators.informed` names; it is kept as
    ``mask.evidence``. 0: no evidence."""
    drop: str = "absolute"
    """The order in which evidence ranks survivors: absolute or relative movement, or magnitude."""
    repair: bool = False
    """When masks are evaluated, repair those whose number of survivors an operator has changed, such as one of DEAP's.
    Otherwise there is a warning for the first. :func:`evoprune.operators.keep_survivors` repairs masks when they are made."""


def make_toolbox(problem: Problem, **options: Any) -> base.Toolbox:
    """Returns a ``deap.base.Toolbox`` with ``individual``, ``population``, ``evaluate``, ``map`` and ``select``.

    The caller registers ``mate`` and ``mutate``; DEAP's algorithms then run on it unchanged. The map sends whole
    chunks of masks to the workers. Another map (the built-in one, ``futures.map``, a pool's) may be registered in its place.
    It sends one mask at a time, and so does any map if ``evaluate`` is decorated. A process that was forked uses one thread.

    The toolbox pickles, for whole algorithms in workers (with ``workers="serial"``); a copy draws from copies of its streams.

    Args:
        problem: The problem.
        **options: Fields of :class:`evoprune.search.toolbox.ToolboxOptions`, and ``workers``, ``engine``, ``threads``,
            ``evaluation_timeout`` and ``seed`` of :class:`evoprune.search.execution.Execution`.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    chosen, execution = split((ToolboxOptions, Execution), options)
    seed = problem.seed if execution.seed is None else seeds.check_seed(execution.seed)
    evaluator = make_evaluator(problem, chosen, seed, execution)
    masks = seeds.generator(seed, "masks")
    selection = random.Random(seeds.integer(seed, "selection"))
    workers = choose_workers(execution.workers, execution.evaluation_timeout)
    toolbox = base.Toolbox()
    toolbox.register("individual", random_mask, problem.shapes, chosen.sparsity, masks, chosen.layer_densities)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", evaluator)
    toolbox.register("map", ChunkedMap(workers, isinstance(execution.workers, str)))
    toolbox.register("select", Seeded(tools.selTournament, selection), tournsize=3)
    return toolbox


def make_evaluator(problem: Problem, options: Any, seed: int, execution: Execution, **more: Any) -> Evaluator:
    """Returns the evaluator that options describe.

    Args:
        problem: The problem.
        options: Options with ``sparsity``, ``layer_densities``, ``fitness`` and ``fitness_epochs``.
        seed: Seed of the run.
        execution: How the search is carried out.
        **more: Further keywords of :class:`evoprune.Evaluator`, and other values of ``sparsity`` and ``chunk_size``.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    given = {"sparsity": options.sparsity, "chunk_size": options.chunk_size, **more}
    sparsity = given.pop("sparsity")
    layer_survivors(problem.shapes, sparsity, options.layer_densities, np.random.default_rng(0))  # refuses bad values now
    further = {name: getattr(options, name) for name in ("dissipation", "evidence", "drop", "repair") if hasattr(options, name)}
    return Evaluator(
        problem,
        fitness=options.fitness,
        epochs=options.fitness_epochs,
        engine=auto.resolve(execution.engine, problem, sparsity, given["chunk_size"]),
        threads=execution.threads,
        deterministic=execution.deterministic,
        seed=seed,
        survivors=survivors_of(sparsity, problem.prunable_count),
        **further | given,
    )


class Seeded:
    """An operator of DEAP's that draws from a stream instead of the global ``random``.

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
