"""Evolution as a method."""

from __future__ import annotations

import os
from collections.abc import Sequence

from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.evolution.callbacks import Callback
from evoprune.search.evolution.course import search_generations
from evoprune.search.evolution.options import Evolution
from evoprune.search.session import Plan, Where
from evoprune.workers.base import Workers


def evolve(
    problem: Problem,
    evolution: Evolution | None = None,
    *,
    sparsity: float = 0.9,
    fitness: str | Sequence[str] = "loss",
    layer_densities: str = "varied",
    fitness_epochs: int = 1,
    restart: bool = False,
    controls: bool = True,
    trained_bests: int = 8,
    callbacks: Sequence[Callback] = (),
    seed: int | None = None,
    engine: str = "auto",
    workers: str | Workers = "auto",
    evaluation_timeout: float | None = None,
    retry_failed: bool = False,
    threads: int = 1,
    chunk_size: int = 8,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Evolves sparse masks over generations, and trains the fittest fully; k-starts is its first generation.

    ::

        population = random masks, or what other methods found
        fitness = briefly train each masked network from W0
        for each generation:
            children = mutants of masks of the population, and crossovers of pairs
            fitness of the children
            population = the fittest k of both
        go on training the fittest mask of all

    Every mask keeps its number of survivors, unless the mutation ``sparsity`` is among the operators. After each generation
    there is a checkpoint, and every evaluation is on disk before it is used. A mask is evaluated once.

    Args:
        problem: The problem; its recipe's epochs include the brief training.
        evolution: Operators, selection, first generation, and when to stop; None takes the defaults.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        fitness: See :data:`evoprune.evaluation.terms.FITNESS`. Several names are as many objectives, all maximised (NSGA-II,
            Deb et al. 2002); then the fittest is the one of the Pareto front with the largest first objective.
        layer_densities: Of random masks; see :func:`evoprune.masks.random.layer_survivors`.
        fitness_epochs: Epochs of the brief training; 0 judges the untrained masked networks, by loss, accuracy or magnitude.
        restart: Train the fittest mask and its control from W0 with another order of the batches, for comparison.
        controls: Also train the fittest mask of the first generation, which k-starts would have chosen; where sparsity rises,
            of the first one at the asked sparsity.
        trained_bests: So many of the generations' fittest masks, evenly spread, are trained fully, too, and recorded in
            ``bests.csv``, to see what fitness is worth.
        callbacks: Called after each generation; see :class:`evoprune.search.evolution.callbacks.Callback`.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.registry.ENGINES`; ``auto`` chooses by measured costs. A resumed run keeps its own.
        workers: See :func:`evoprune.workers.choose.choose_workers`.
        evaluation_timeout: Likewise.
        retry_failed: Go back to before the first mask that the machine failed, by a lack of memory or the like, and evaluate it
            again; else it keeps the worst fitness, which the run has used.
        threads: Threads that torch uses in every process.
        chunk_size: Masks that are evaluated together where the engine takes several at a time.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error, and a line a generation.

    Returns:
        The fittest mask, its trained network, hall of fame, last population and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation of the first generation failed, or the winner's final training diverged.
    """
    search = {
        "sparsity": sparsity, "layer_densities": layer_densities, "fitness": fitness, "fitness_epochs": fitness_epochs,
        "seed": seed, "engine": engine, "chunk_size": chunk_size,
    }  # fmt: skip
    evolution = Evolution() if evolution is None else evolution
    where = Where(workers, threads, out, force, progress, evaluation_timeout, retry_failed)
    plan = Plan("evolve", evolution.k, restart, controls)
    return search_generations(problem, evolution, plan, search, trained_bests, callbacks, where)
