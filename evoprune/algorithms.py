"""The searches: k-starts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from deap import base, tools
from torch import Tensor, nn
from tqdm import tqdm

from evoprune import records, seeds
from evoprune.errors import InputError, RunError
from evoprune.evaluate import FAILURE, NO_BETTER_THAN_CHANCE, BriefTraining, Evaluation, Evaluator, collapse_note
from evoprune.final import HISTORY_COLUMNS, FinalTraining, train_fully
from evoprune.mask import Mask, diversity
from evoprune.problem import Problem
from evoprune.run import GENERATION_COLUMNS, Run
from evoprune.toolbox import fitness_of, make_statistics, make_toolbox


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        mask: The winner.
        model: The winner's network after the full training, removed weights exactly zero.
        logbook: DEAP's logbook: fitness over generations.
        population: The last generation, fitness and all.
        evaluations: Its evaluations, in the same order.
        trainings: The full training of the winner (``winner``) and of the controls, by role.
        summary: What ``result.json`` says.
    """

    mask: Mask
    model: nn.Module
    logbook: tools.Logbook
    population: list[Mask]
    evaluations: list[Evaluation]
    trainings: dict[str, FinalTraining]
    summary: dict[str, Any]


def k_starts(
    problem: Problem,
    *,
    k: int = 16,
    sparsity: float = 0.9,
    fitness: str = "combined",
    layer_densities: str = "varied",
    fitness_epochs: int = 2,
    restart: bool = False,
    seed: int | None = None,
    engine: str = "auto",
    workers: str = "auto",
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
        fitness: See :data:`evoprune.fitness.FITNESS`.
        layer_densities: See :func:`evoprune.initialize.layer_survivors`.
        fitness_epochs: Epochs of the brief training.
        restart: Train winner and controls from W0 for all epochs with another order of the batches, for comparison.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs. A resumed run keeps its own.
        workers: See :func:`evoprune.parallel.choose_workers`.
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
        RunError: Every evaluation failed.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}; expected the number of starts, at least 1.")
    seed = problem.seed if seed is None else seeds.check_seed(seed)
    chunk_size = max(1, min(8, k // 4)) if chunk_size is None else chunk_size
    search: dict[str, Any] = {
        "sparsity": float(sparsity),
        "layer_densities": layer_densities,
        "fitness": fitness,
        "fitness_epochs": fitness_epochs,
        "seed": seed,
        "engine": engine,
        "chunk_size": chunk_size,
    }
    toolbox = make_toolbox(problem, **search, workers=workers, threads=threads)
    evaluator: Evaluator = toolbox.evaluate.func
    terms = list(evaluator.fitness.terms)
    settings = {"problem": problem.config(), **search, "fitness_terms": terms, "k": k, "restart": restart}
    execution = {"workers": workers, "threads": threads, "engine": evaluator.brief.engine}
    run = None if out is None else Run.plan(out, "kstarts", settings, execution, force)
    with nullcontext() if run is None else run.of(problem):
        if run is not None:
            evaluator.resume(run.evaluations, run.divisors, run.execution["threads"], run.execution["engine"])
        if progress:
            tqdm.write(f"engine {evaluator.brief.engine}, {evaluator.brief.chunk} masks at a time")
        result = _k_starts(problem, toolbox, k, restart, seed, run, progress)
        if run is not None and not run.finished:
            save(run, result)
    return result


def _k_starts(
    problem: Problem, toolbox: base.Toolbox, k: int, restart: bool, seed: int, run: Run | None, progress: bool
) -> Result:
    brief = toolbox.evaluate.func.brief
    population = toolbox.population(n=k)
    evaluations = evaluate_generation(toolbox, population, 0, run, progress)
    logbook = tools.Logbook()
    logbook.header = list(GENERATION_COLUMNS)
    log_generation(logbook, population, evaluations, 0, run)
    require_a_survivor(evaluations, run)
    chosen = _winner_and_controls(population, evaluations, seed)
    order = seeds.integer(seed, "restart") if restart else brief.seed
    trainings = train_chosen(problem, chosen, brief, order, run, progress)
    model = problem.network().eval()
    model.load_state_dict(trainings["winner"].state)
    search_epochs = len({mask.hash for mask in population}) * brief.epochs
    described = {role: describe_training(problem, chosen[role], trainings[role]) for role in chosen}
    summary = {
        "method": "kstarts",
        **describe_problem(problem, seed),
        **described.pop("winner"),
        "k": k,
        "fitness": toolbox.evaluate.func.fitness.name,
        "engine": brief.engine,
        "winner_fitness": fitness_of(chosen["winner"]),
        "winner_status": next(e.status for e in evaluations if e.mask == chosen["winner"].hash),
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + problem.recipe.epochs - (0 if restart else brief.epochs),
        "seconds": sum(e.seconds for e in evaluations) + trainings["winner"].seconds,
        "spearman_rho": rank_correlation(population, evaluations),
        "failed": sum(e.status == FAILURE for e in evaluations),
        "no_better_than_chance": sum(e.status == NO_BETTER_THAN_CHANCE for e in evaluations),
        "controls": described,
    }
    return Result(chosen["winner"], model, logbook, population, evaluations, trainings, summary)


def evaluate_generation(
    toolbox: base.Toolbox, population: Sequence[Mask], gen: int, run: Run | None, progress: bool
) -> list[Evaluation]:
    """Evaluates a population, gives each mask its fitness, and records every evaluation as soon as it is finished."""
    evaluator: Evaluator = toolbox.evaluate.func
    before = len(evaluator.known)
    with tqdm(total=len(population), desc="evaluating", unit="mask", disable=not progress) as bar:
        bar.update(sum(mask.hash in evaluator.known for mask in population))

        def on_result(evaluations: list[Evaluation]) -> None:
            if run is not None:
                run.record(gen, evaluations)
            bar.update(len(evaluations))

        evaluations = evaluator.evaluate(population, toolbox.map.func.workers, on_result)
        bar.update(bar.total - bar.n)
    if progress and before:
        tqdm.write(f"{before} evaluations were on disk already")
    if run is not None:
        run.calibrated(evaluator.divisors)
    for mask, evaluation in zip(population, evaluations, strict=True):
        mask.fitness.values = (evaluator.value(evaluation),)
    return evaluations


def log_generation(
    logbook: tools.Logbook, population: list[Mask], evaluations: list[Evaluation], gen: int, run: Run | None
) -> None:
    """Adds a generation to the logbook and to ``generations.csv``."""
    logbook.record(
        gen=gen,
        nevals=len({mask.hash for mask in population}),
        **make_statistics().compile(population),
        diversity=diversity(population),
        seconds=sum(evaluation.seconds for evaluation in evaluations),
    )
    if run is not None:
        run.write_generations(logbook)


def require_a_survivor(evaluations: Sequence[Evaluation], run: Run | None) -> None:
    """Ends a search in which nothing can be chosen.

    Raises:
        RunError: Every evaluation failed.
    """
    if all(evaluation.status == FAILURE for evaluation in evaluations):
        where = "" if run is None else f" The evaluations are recorded in {run.folder / 'evaluations.csv'}."
        raise RunError(
            f"all {len(evaluations)} evaluations failed; the first: {evaluations[0].note}. If training diverged, lower "
            f"the learning rate.{where}"
        )


def train_chosen(
    problem: Problem,
    chosen: dict[str, Mask],
    brief: BriefTraining,
    order: int,
    run: Run | None,
    progress: bool,
) -> dict[str, FinalTraining]:
    """Trains masks fully, each distinct one once; a training that the run folder has is read back."""
    done: dict[str, FinalTraining] = {}
    trainings = {}
    epochs = problem.recipe.epochs
    with tqdm(total=epochs * len(chosen), desc="training", unit="epoch", disable=not progress) as bar:

        def advance() -> None:
            bar.update()

        for role, mask in chosen.items():
            bar.set_postfix_str(role)
            if mask.hash not in done:

                def compute(mask: Mask = mask) -> tuple[dict[str, Any], dict[str, Tensor]]:
                    facts = asdict(train_fully(problem, mask, brief.engine, order, brief.threads, advance))
                    return facts, facts.pop("state")

                facts, state = compute() if run is None else run.step(mask.hash, compute)
                done[mask.hash] = FinalTraining.from_facts(facts, state)
            trainings[role] = done[mask.hash]
            bar.update((len(trainings) * epochs) - bar.n)
    return trainings


def describe_problem(problem: Problem, seed: int) -> dict[str, Any]:
    """Returns what a result says of its problem."""
    config = problem.config()
    return {"data": config["data"], "model": config["model"], "seed": seed}


def describe_training(problem: Problem, mask: Mask, training: FinalTraining) -> dict[str, Any]:
    """Returns what a result says of a fully trained mask."""
    chance = problem.chance_loss
    return {
        "mask": mask.hash,
        "sparsity": mask.sparsity,
        "survivors": mask.survivors,
        "collapse": collapse_note(problem, mask),
        "layers": {name: [int(layer.sum()), layer.size] for name, layer in mask.layers.items()},
        "test_accuracy": training.test_accuracy,
        "test_loss": training.test_loss,
        "validation_accuracy": training.validation_accuracy,
        "validation_loss": training.validation_loss,
        "better_than_chance": None if chance is None else training.validation_loss < chance,
    }


def rank_correlation(population: Sequence[Mask], evaluations: Sequence[Evaluation]) -> float:
    """Returns Spearman's rho between fitness and validation accuracy (minus the loss, where there is no accuracy).

    Over the evaluations that did not fail; NaN for fewer than three, or where either is constant.
    """
    pairs = [
        (fitness_of(mask), -e.validation_loss if math.isnan(e.validation_accuracy) else e.validation_accuracy)
        for mask, e in zip(population, evaluations, strict=True)
        if e.status != FAILURE
    ]
    values = np.array(pairs).T
    if len(pairs) < 3 or np.ptp(values, axis=1).min() == 0:
        return math.nan
    from scipy import stats  # slow to import, and no worker needs it

    return float(stats.spearmanr(*values).statistic)


def _winner_and_controls(population: list[Mask], evaluations: list[Evaluation], seed: int) -> dict[str, Mask]:
    usable = [(mask, e) for mask, e in zip(population, evaluations, strict=True) if e.status != FAILURE]
    drawn = int(seeds.generator(seed, "selection").integers(len(usable)))
    return {
        "winner": tools.selBest([mask for mask, _ in usable], 1)[0],
        "random": usable[drawn][0],
        "validation": min(usable, key=lambda pair: pair[1].validation_loss)[0],
    }


def save(run: Run, result: Result) -> None:
    """Writes what a search found into the run folder; ``result.json`` last, which says that the run is finished."""
    rows = [{"role": role, **row} for role, training in result.trainings.items() for row in training.history]
    records.write_table(run.folder / "history.csv", ["role", *HISTORY_COLUMNS], rows)
    result.mask.save(run.folder / "mask.npz")
    records.save_tensors(run.folder / "model.safetensors", result.model.state_dict())
    records.write_json(run.folder / "result.json", result.summary)
