"""k-starts: k random masks, briefly trained; the fittest is trained fully."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from deap import base, tools
from tqdm import tqdm

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.evaluation.evaluation import NO_BETTER_THAN_CHANCE, Evaluation
from evoprune.evaluation.evaluator import Evaluator
from evoprune.masks.mask import Mask, fitness_of
from evoprune.problem.problem import Problem
from evoprune.runs.result import (
    Result,
    count_failures,
    describe_problem,
    describe_training,
    rank_correlation,
    trained_model,
)
from evoprune.runs.run import Run
from evoprune.search.evolution.generations import evaluate_generation, log_generation, require_a_survivor, write_generations
from evoprune.search.final import train_chosen
from evoprune.search.session import Plan, Where
from evoprune.search.toolbox import make_toolbox
from evoprune.training.final import FinalTraining
from evoprune.workers.base import Workers


def check_k(k: int) -> int:
    """Returns the number of starts.

    Raises:
        InputError: It is not a positive integer.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}; expected the number of starts, at least 1.")
    return k


def search_starts(problem: Problem, plan: Plan, search: Mapping[str, Any], where: Where) -> Result:
    """Evaluates k random masks, chooses, and trains what was chosen; see :func:`evoprune.search.kstarts.k_starts`.

    Args:
        problem: The problem.
        plan: What is done.
        search: Arguments of :func:`evoprune.search.toolbox.make_toolbox`; a ``seed`` and a ``chunk_size`` may be None.
        where: Where it is done.
    """
    k = check_k(plan.k)
    seed = problem.seed if search["seed"] is None else seeds.check_seed(search["seed"])
    chunk_size = max(1, min(8, k // 4)) if search["chunk_size"] is None else search["chunk_size"]
    search = {**search, "sparsity": float(search["sparsity"]), "seed": seed, "chunk_size": chunk_size}
    toolbox = make_toolbox(problem, **search, **where.evaluating)
    evaluator: Evaluator = toolbox.evaluate.func
    searched = {name: value for name, value in search.items() if name != "dissipation"}
    settings = {
        "problem": problem.config(),
        **searched,
        "fitness_terms": list(evaluator.terms),
        "k": k,
        "restart": plan.restart,
        "controls": plan.controls,
    }
    if plan.dissipation is not None:
        selected = "start" if evaluator.brief.dissipation is None else "end"
        settings |= {"dissipation": asdict(plan.dissipation), "select": selected}
    execution = {**where.recorded, "engine": evaluator.brief.engine}
    run = None if where.out is None else Run.plan(where.out, plan.method, settings, execution, where.force, where.retry_failed)
    with nullcontext() if run is None else run.of(problem, evaluator.job.identify_terms()), toolbox.map.func:
        if run is not None:
            evaluator.resume({}, run.divisors, run.execution["threads"], run.execution["engine"])
        if where.progress:
            tqdm.write(f"engine {evaluator.brief.engine}, {evaluator.job.chunk} masks at a time")
        result = _search_starts(problem, toolbox, plan, seed, run, where.progress)
        if run is not None:
            run.save(result)
    return result


def _search_starts(problem: Problem, toolbox: base.Toolbox, plan: Plan, seed: int, run: Run | None, progress: bool) -> Result:
    brief = toolbox.evaluate.func.brief
    population = toolbox.population(n=plan.k)
    evaluations = evaluate_generation(toolbox, population, 0, run, progress)
    known = toolbox.evaluate.func.known
    logbook = tools.Logbook()
    log_generation(logbook, 0, population, tools.selBest(population, 1)[0], known, set(known))
    write_generations(run, logbook, problem.shapes)
    require_a_survivor(evaluations, run)
    chosen = _winner_and_controls(population, evaluations, seed)
    chosen = chosen if plan.controls else {"winner": chosen["winner"]}
    trainings = train_chosen(problem, chosen, plan, (brief.engine, brief.threads, brief.seed), seed, run, progress)
    described = {role: describe_training(problem, chosen[role], trainings[role]) for role in chosen}
    winner = next(e for e in evaluations if e.mask == chosen["winner"].hash)
    summary = {
        "method": plan.method,
        **describe_problem(problem, seed),
        **described.pop("winner"),
        "k": plan.k,
        "fitness": toolbox.evaluate.func.objectives[0].name,
        "engine": ", ".join(dict.fromkeys([brief.engine, *trainings["winner"].engines])),
        "winner_fitness": fitness_of(chosen["winner"]),
        "winner_status": winner.status,
        **_cost(problem, plan, evaluations, winner, trainings["winner"], brief.epochs),
        "spearman_rho": rank_correlation(population, evaluations),
        **count_failures(evaluations),
        "no_better_than_chance": sum(e.status == NO_BETTER_THAN_CHANCE for e in evaluations),
        "controls": described,
    }
    model = trained_model(problem, trainings["winner"])
    return Result(trainings["winner"].mask, model, trainings, summary, logbook, population, evaluations)


def _cost(
    problem: Problem, plan: Plan, evaluations: list[Evaluation], winner: Evaluation, training: FinalTraining, brief: int
) -> dict[str, float]:
    """Returns what winner and search cost; what the winner's training repeats of its evaluation is counted once."""
    distinct = {e.mask: e for e in evaluations}.values()
    last = brief if plan.dissipation is None else max(brief, plan.dissipation.last)
    search_epochs = len(distinct) * brief + last - brief
    epochs = problem.recipe.epochs
    evaluated = sum(e.multiply_adds for e in distinct if math.isfinite(e.multiply_adds))
    # the part of the winner's evaluation that its training repeats, by going on or by searching on
    repeated = min(winner.multiply_adds, training.search_cost) if plan.restart else winner.multiply_adds
    return {
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + epochs - (0 if plan.restart else last),
        "multiply_adds": evaluated - repeated + training.search_cost + training.cost(epochs),
        "seconds": sum(e.seconds for e in evaluations) + training.seconds,
    }


def _winner_and_controls(population: list[Mask], evaluations: list[Evaluation], seed: int) -> dict[str, Mask]:
    usable = [(mask, e) for mask, e in zip(population, evaluations, strict=True) if not e.has_failed]
    drawn = int(seeds.generator(seed, "selection").integers(len(usable)))
    return {
        "winner": tools.selBest([mask for mask, _ in usable], 1)[0],
        "random": usable[drawn][0],
        "validation": min(usable, key=lambda pair: pair[1].validation_loss)[0],
    }


def k_starts(
    problem: Problem,
    *,
    k: int = 16,
    sparsity: float = 0.9,
    fitness: str = "combined",
    layer_densities: str = "varied",
    fitness_epochs: int = 2,
    restart: bool = False,
    controls: bool = True,
    seed: int | None = None,
    engine: str = "auto",
    workers: str | Workers = "auto",
    evaluation_timeout: float | None = None,
    retry_failed: bool = False,
    threads: int = 1,
    chunk_size: int | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Trains k random sparse networks briefly from W0, and the fittest fully (arXiv:2209.02201).

    Two controls are trained in the same way: a random one of the k, and the one of the least validation loss::

        masks = k random masks
        fitness = briefly train each masked network from W0, for the first epochs of the recipe
        winner = the fittest mask
        go on training the winner for the rest of the recipe's epochs, and each control

    Brief training is deterministic, so "go on" is reached by replaying it.

    Args:
        problem: The problem; its recipe's epochs include the brief training.
        k: Number of starts.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        fitness: See :data:`evoprune.evaluation.terms.FITNESS`.
        layer_densities: See :func:`evoprune.masks.random.layer_survivors`.
        fitness_epochs: Epochs of the brief training; 0 judges the untrained masked networks, by loss, accuracy or magnitude.
        restart: Train winner and controls from W0 for all epochs with another order of the batches, for comparison.
        controls: Train the two controls.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.registry.ENGINES`; ``auto`` chooses by measured costs. A resumed run keeps its own.
        workers: See :func:`evoprune.workers.choose.choose_workers`.
        evaluation_timeout: Likewise.
        retry_failed: Go back to before the first mask that the machine failed, by a lack of memory or the like, and evaluate it
            again; else it keeps the worst fitness, which the run has used.
        threads: Threads that torch uses in every process.
        chunk_size: Masks that are evaluated together where the engine takes several at a time. None: a quarter of the k, at
            most 8, so that four processes find work.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The winner, its trained network, the controls and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the winner's final training diverged.
    """
    search = {
        "sparsity": sparsity, "layer_densities": layer_densities, "fitness": fitness, "fitness_epochs": fitness_epochs,
        "seed": seed, "engine": engine, "chunk_size": chunk_size,
    }  # fmt: skip
    where = Where(workers, threads, out, force, progress, evaluation_timeout, retry_failed)
    return search_starts(problem, Plan("kstarts", k, restart, controls), search, where)
