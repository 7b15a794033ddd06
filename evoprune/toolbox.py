"""A DEAP toolbox for a problem."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from deap import base, tools

from evoprune import seeds
from evoprune.dissipation import Dissipation
from evoprune.engines import auto
from evoprune.evaluate import Evaluator, Workers
from evoprune.initialize import layer_survivors, random_mask, survivors_of
from evoprune.mask import Mask
from evoprune.parallel import ChunkedMap, choose_workers
from evoprune.problem import Problem


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
        layer_densities: See :func:`evoprune.initialize.layer_survivors`.
        fitness: See :data:`evoprune.fitness.FITNESS`; several names for as many objectives. One of several terms needs the
            toolbox's own map, which sees the initial population as a whole.
        fitness_epochs: Epochs of the brief training; 0 judges untrained networks, by loss, accuracy or magnitude.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs.
        workers: See :func:`evoprune.parallel.choose_workers`.
        evaluation_timeout: Likewise.
        threads: See :class:`evoprune.evaluate.Evaluator`.
        chunk_size: Likewise.
        dissipation: What is removed during the brief training; None for nothing.
        evidence: Fraction of the survivors that evidence for :func:`evoprune.operators.informed` is to name; the toolbox's own
            map sets it as ``mask.evidence``. 0 takes none.
        drop: What evidence ranks survivors by; see :class:`evoprune.brief.BriefTraining`.
        repair: Mend masks whose number of survivors an operator has changed, such as DEAP's own, where they are evaluated; else
            the first is warned of. See :class:`evoprune.evaluate.Evaluator`, and :func:`evoprune.operators.keep_survivors`,
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


def make_statistics() -> tools.Statistics:
    """Returns DEAP's statistics of the fitness: min, mean, max and std over the finite values (NaN for none)."""
    return with_statistics(tools.Statistics(fitness_of))


def with_statistics(statistics: Any) -> Any:
    """Registers min, mean, max and std over the finite values (NaN for none), and returns the statistics."""
    for name, function in (("min", np.min), ("mean", np.mean), ("max", np.max), ("std", np.std)):
        statistics.register(name, _over_finite, function)
    return statistics


def fitness_of(mask: Mask) -> float:
    """Returns the mask's first fitness value."""
    return float(mask.fitness.values[0])


def _over_finite(function: Callable[[Any], Any], values: Any) -> float:
    finite = np.array([value for value in values if np.isfinite(value)])
    return float(function(finite)) if finite.size else float("nan")
