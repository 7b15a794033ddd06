"""The course of a search: evaluate a population, choose, train, record; each step resumable."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deap import base, tools
from torch import Tensor
from tqdm import tqdm

from evoprune import seeds
from evoprune.brief import NO_BETTER_THAN_CHANCE, Evaluation
from evoprune.dissipation import Dissipation
from evoprune.engines import auto
from evoprune.errors import InputError, RunError, is_of_the_machine
from evoprune.evaluate import Evaluator, Workers
from evoprune.final import FinalTraining, train_from_w0, train_fully
from evoprune.generations import evaluate_generation, log_generation, require_a_survivor, write_generations
from evoprune.importing import require_main_guard
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.result import Result, count_failures, describe_problem, describe_training, rank_correlation, save, trained_model
from evoprune.run import Run
from evoprune.toolbox import fitness_of, make_toolbox
from evoprune.train import multiply_adds


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        method: Name of the method, as in records.
        k: Number of starts.
        restart: Train what was found from W0 with another order of the batches.
        controls: Train the controls, too.
        dissipation: What is removed while the chosen masks are trained; None for nothing.
        free_after: Epochs after which their engine may change; see :func:`evoprune.final.train_fully`.
    """

    method: str
    k: int
    restart: bool = False
    controls: bool = False
    dissipation: Dissipation | None = None
    free_after: int | None = None


@dataclass(frozen=True)
class Where:
    """Where it is done and recorded; see :func:`evoprune.algorithms.k_starts`."""

    workers: str | Workers
    threads: int
    out: str | os.PathLike[str] | None
    force: bool
    progress: bool
    evaluation_timeout: float | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        require_main_guard()
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out).absolute())  # before code of the user's may change the folder

    @property
    def evaluating(self) -> dict[str, Any]:
        """What :func:`evoprune.toolbox.make_toolbox` wants of it."""
        return {"workers": self.workers, "threads": self.threads, "evaluation_timeout": self.evaluation_timeout}

    @property
    def recorded(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**self.evaluating, "workers": str(self.workers)}


@dataclass(frozen=True)
class Found:
    """A mask, the epochs of training that it took to find it, and their cost in epochs of dense training."""

    mask: Mask
    search_epochs: float = 0.0
    search_cost: float = 0.0


def check_k(k: int) -> int:
    """Returns the number of starts.

    Raises:
        InputError: It is not a positive integer.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}; expected the number of starts, at least 1.")
    return k


def search_starts(problem: Problem, plan: Plan, search: Mapping[str, Any], where: Where) -> Result:
    """Evaluates k random masks, chooses, and trains what was chosen; see :func:`evoprune.algorithms.k_starts`.

    Args:
        problem: The problem.
        plan: What is done.
        search: Arguments of :func:`evoprune.toolbox.make_toolbox`; a ``seed`` and a ``chunk_size`` may be None.
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
    with nullcontext() if run is None else run.of(problem, evaluator.identify_terms()), toolbox.map.func:
        if run is not None:
            evaluator.resume({}, run.divisors, run.execution["threads"], run.execution["engine"])
        if where.progress:
            tqdm.write(f"engine {evaluator.brief.engine}, {evaluator.brief.chunk} masks at a time")
        result = _search_starts(problem, toolbox, plan, seed, run, where.progress)
        if run is not None and not run.finished:
            save(run, result)
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


def train_found(
    problem: Problem,
    plan: Plan,
    find: Callable[[], Found],
    settings: Mapping[str, Any],
    seed: int | None,
    engine: str,
    where: Where,
) -> Result:
    """Finds one mask and trains it; see :func:`evoprune.algorithms.baseline` and :func:`evoprune.algorithms.dissipate`.

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
        if run is not None and not run.finished:
            save(run, result)
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


def train_chosen(
    problem: Problem,
    chosen: Mapping[str, Mask],
    plan: Plan,
    how: tuple[str, int, int],
    seed: int,
    run: Run | None,
    progress: bool,
) -> dict[str, FinalTraining]:
    """Trains masks fully, each distinct one once; a training that the run folder has is read back.

    A control may diverge, and is recorded so.

    Args:
        problem: The problem.
        chosen: Masks by role.
        plan: Whether they dissipate, and are trained again from W0.
        how: Engine, threads, and the seed of the batches.
        seed: The run's seed.
        run: The run; None records nothing.
        progress: Show a progress bar.

    Raises:
        RunError: The winner's training diverged.
    """
    engine, threads, order = how
    orders = (order, seeds.integer(seed, "restart"))
    restarted = plan.restart and plan.dissipation is not None
    epochs = problem.recipe.epochs + (plan.dissipation.last if restarted and plan.dissipation else 0)
    done: dict[str, FinalTraining] = {}
    trainings = {}
    with tqdm(total=epochs * len(chosen), desc="training", unit="epoch", disable=not progress) as bar:

        def advance() -> None:
            bar.update()

        def train_mask(mask: Mask) -> FinalTraining:
            try:
                if plan.restart:
                    return train_from_w0(problem, mask, engine, orders, threads, advance, plan.dissipation, plan.free_after)
                return train_fully(problem, mask, engine, order, threads, advance, plan.dissipation, free_after=plan.free_after)
            except Exception as error:
                if not is_of_the_machine(error):
                    raise
                raise RunError(
                    f"the machine failed in the final training of mask {mask.hash[:12]}: {type(error).__name__}: {error}; what "
                    f"was found before is on disk, where out= was given, and the same command resumes."
                ) from error

        for role, mask in chosen.items():
            bar.set_postfix_str(role)
            if mask.hash not in done and run is None:
                done[mask.hash] = train_mask(mask)
            elif mask.hash not in done and run is not None:
                facts, tensors = run.step(mask.hash, lambda mask=mask: train_mask(mask).to_facts())  # type: ignore[misc]
                done[mask.hash] = FinalTraining.from_facts(facts, tensors, problem)
            trainings[role] = done[mask.hash]
            if role == "winner":
                _require_convergence(problem, plan, mask, trainings[role], run)
            bar.update((len(trainings) * epochs) - bar.n)
    return trainings


def _require_convergence(problem: Problem, plan: Plan, mask: Mask, training: FinalTraining, run: Run | None) -> None:
    divergence = training.divergence()
    if not divergence:
        return
    kept = "Nothing is recorded; with out= what is found before is kept."
    if run is not None:
        path = run.checkpoint / f"{mask.hash}.npz"
        mask.save(path)
        kept = f"What was found before is kept in {run.folder}, and the mask that was trained in {path}."
    raise RunError(
        f"the final training of the winner, mask {mask.hash[:12]}, diverged ({divergence}) with lr {problem.recipe.lr:g}; "
        f"lower lr{', or choose by the fitness loss' if plan.k > 1 else ''}. {kept}"
    )


def _winner_and_controls(population: list[Mask], evaluations: list[Evaluation], seed: int) -> dict[str, Mask]:
    usable = [(mask, e) for mask, e in zip(population, evaluations, strict=True) if not e.has_failed]
    drawn = int(seeds.generator(seed, "selection").integers(len(usable)))
    return {
        "winner": tools.selBest([mask for mask, _ in usable], 1)[0],
        "random": usable[drawn][0],
        "validation": min(usable, key=lambda pair: pair[1].validation_loss)[0],
    }
