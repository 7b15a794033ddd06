"""The course of an evolution: first masks, generation after generation, the final trainings; each step resumable."""

from __future__ import annotations

import copy
import math
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any

from deap import base, tools
from tqdm import tqdm

from evoprune import seeds
from evoprune.engines import auto
from evoprune.errors import InputError
from evoprune.evaluation.evaluation import NO_BETTER_THAN_CHANCE
from evoprune.evaluation.evaluator import Evaluator
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result, count_failures, describe_problem, describe_training, trained_model
from evoprune.runs.run import Run
from evoprune.search.evolution import checkpoint
from evoprune.search.evolution.bests import train_bests
from evoprune.search.evolution.callbacks import Callback
from evoprune.search.evolution.generations import evaluate_generation, log_generation, require_a_survivor, write_generations
from evoprune.search.evolution.options import Evolution
from evoprune.search.evolution.starts import How, Starts, first_masks, given_masks
from evoprune.search.evolution.state import State
from evoprune.search.evolution.steady import Steady
from evoprune.search.evolution.survival import improve, make_hall_of_fame, reason_to_stop, replace
from evoprune.search.evolution.variation import register_operators, vary
from evoprune.search.final import train_chosen
from evoprune.search.session import Plan, Where
from evoprune.search.toolbox import make_toolbox
from evoprune.system.signals import save_on_signals
from evoprune.training.final import FinalTraining
from evoprune.training.gradient import BATCH


@dataclass
class Latest:
    """The latest state between two generations, which may be saved at any time.

    Attributes:
        run: The run; None saves nothing.
        state: The state; None before there is one.
    """

    run: Run | None
    state: State | None = None
    saving: bool = False

    def save(self) -> None:
        """Saves the state; does nothing while it is being saved, as when a signal comes just then."""
        if self.run is None or self.state is None or self.saving:
            return
        self.saving = True
        try:
            checkpoint.save_state(self.run, self.state)
        finally:
            self.saving = False


def search_generations(
    problem: Problem,
    evolution: Evolution,
    plan: Plan,
    search: Mapping[str, Any],
    trained_bests: int,
    callbacks: Sequence[Callback],
    where: Where,
) -> Result:
    """Evolves masks, and trains the fittest; see :func:`evoprune.search.evolution.evolve.evolve`.

    Args:
        problem: The problem.
        evolution: The options of the evolution.
        plan: What is done with the fittest mask.
        search: Arguments of :func:`evoprune.search.toolbox.make_toolbox`; a ``seed`` may be None.
        trained_bests: How many of the generations' fittest masks are trained fully, too.
        callbacks: Called after each generation.
        where: Where it is done.
    """
    seed = problem.seed if search["seed"] is None else seeds.check_seed(search["seed"])
    names = [search["fitness"]] if isinstance(search["fitness"], str) else list(search["fitness"])
    sparsity = float(search["sparsity"])
    evolution.require(sparsity, problem.prunable_count, len(names))
    if search["fitness_epochs"] == 0 and evolution.drop in ("absolute", "relative") and evolution.evidence(sparsity):
        warnings.warn(
            f"networks that are not trained (fitness_epochs 0) have not moved: survivors are dropped by magnitude, and not by "
            f"{evolution.drop} movement.",
            stacklevel=3,
        )
        evolution = replace_fields(evolution, drop="magnitude")
    begin, evidence = evolution.begin(sparsity), evolution.evidence(sparsity)
    engine = auto.resolve(search["engine"], problem, sparsity, search["chunk_size"])
    search = {**search, "fitness": names, "sparsity": sparsity, "seed": seed}
    found = {**search, "sparsity": begin, "engine": engine, "evidence": evidence, "drop": evolution.drop}
    if "sparsity" in names and "sparsity" not in evolution.mutation:
        raise InputError(f"sparsity is an objective, but mutation is {evolution.mutation}; expected sparsity among them.")
    if isinstance(trained_bests, bool) or not isinstance(trained_bests, int) or trained_bests < 0:
        raise InputError(f"trained_bests is {trained_bests!r}; expected how many to train, at least 0.")
    given = given_masks(problem, evolution, begin)
    toolbox = make_toolbox(problem, **found, **where.evaluating)
    register_operators(toolbox, evolution, sparsity, len(names), seeds.generator(seed, "variation"))
    evaluator: Evaluator = toolbox.evaluate.func
    settings = {
        "problem": problem.config(),
        **search,
        **evolution.to_settings(),
        "given": [mask.hash for mask in given],
        "fitness_terms": list(evaluator.terms),
        "restart": plan.restart,
        "controls": plan.controls,
        "trained_bests": trained_bests,
    }
    execution = {**where.recorded, "engine": evaluator.brief.engine}
    run = None if where.out is None else Run.plan(where.out, plan.method, settings, execution, where.force, where.retry_failed)
    latest = Latest(run)
    with (
        nullcontext() if run is None else run.of(problem, evaluator.job.identify_terms()),
        toolbox.map.func,
        save_on_signals(latest.save),
    ):
        if run is not None:
            evaluator.resume({}, run.divisors, run.execution["threads"], run.execution["engine"])
        if where.progress:
            tqdm.write(f"engine {evaluator.brief.engine}, {evaluator.job.chunk} masks at a time")
        how = How(begin, seed, search["engine"], evaluator.brief.threads, evaluator.brief.seed)
        starts = first_masks(problem, evolution, given, how, toolbox, run, where.progress)
        latest.state = first_state(problem, toolbox, evolution, seed, run)
        state = evolve_masks(problem, toolbox, evolution, sparsity, starts.masks, latest, callbacks, where.progress)
        trainings = _train(problem, toolbox, plan, state, seed, run, where.progress)
        known = {} if plan.restart else {training.mask.hash: training for training in trainings.values()}
        bests = train_bests(problem, evaluator.brief, state, trained_bests, known, run, where.progress)
        result = _result(problem, toolbox, plan, evolution, starts, state, trainings, bests, seed)
        if run is not None:
            run.save(result)
    return result


def evolve_masks(
    problem: Problem,
    toolbox: base.Toolbox,
    evolution: Evolution,
    sparsity: float,
    starts: Sequence[Mask],
    latest: Latest,
    callbacks: Sequence[Callback],
    progress: bool,
) -> State:
    """Makes generations until one of the limits is reached, each checkpointed.

    Args:
        problem: The problem.
        toolbox: The toolbox, with ``mate``, ``mutate`` and ``select``.
        evolution: The options.
        sparsity: The asked sparsity.
        starts: The masks of the first generation.
        latest: The state to begin with, which is kept up to date.
        callbacks: Called after each generation.
        progress: Show progress bars, and a line a generation.

    Returns:
        The state after the last generation.
    """
    run, state = latest.run, latest.state
    assert state is not None
    write_generations(run, state.logbook, problem.shapes)  # it may have been killed before they were written
    with tqdm(total=evolution.generations + 1, initial=state.gen, desc="generations", unit="gen", disable=not progress) as bar:
        for latest.state in generations(state, problem, toolbox, evolution, sparsity, starts, run, progress):
            state = latest.state
            latest.save()
            write_generations(run, state.logbook, problem.shapes)
            if progress:
                tqdm.write(state.logbook.stream)
                bar.set_postfix_str(f"best {state.logbook[-1]['best']:.5g}")
            bar.update()
            for callback in callbacks:
                callback.on_generation(state)
    return state


def generations(
    state: State,
    problem: Problem,
    toolbox: base.Toolbox,
    evolution: Evolution,
    sparsity: float,
    starts: Sequence[Mask],
    run: Run | None,
    progress: bool,
) -> Iterator[State]:
    """Yields the state after each generation, until one of the limits is reached; see :func:`evolve_masks`."""
    evaluator: Evaluator = toolbox.evaluate.func
    while not reason_to_stop(state, evolution):
        if evolution.steady_state and state.gen:

            def slots_of() -> int:
                return evolution.slots or toolbox.map.func.workers.count()

            slots = slots_of() if run is None else run.keep("slots", slots_of)
            steady = Steady(copy.deepcopy(state), toolbox, evolution, slots, evaluator.job.chunk)
            yield from steady.states(run, [] if run is None else run.arrivals(state.gen))
            return
        rising = evolution.survivors_at(state.gen, sparsity, problem.prunable_count)
        state = next_state(state, starts, rising, toolbox, evolution, run, progress)
        yield state


def next_state(
    before: State,
    starts: Sequence[Mask],
    rising: int | None,
    toolbox: base.Toolbox,
    evolution: Evolution,
    run: Run | None,
    progress: bool,
) -> State:
    """Returns the state after one more generation; the one before stays as it was, so that it can be saved at any time.

    Args:
        before: The state.
        starts: The masks of the first generation.
        rising: Survivors of the children, while sparsity rises: what is denser no longer counts. None where it does not.
        toolbox: The toolbox.
        evolution: The options.
        run: The run; None records nothing.
        progress: Show a progress bar.
    """
    began = time.perf_counter()
    evaluator: Evaluator = toolbox.evaluate.func
    state = copy.deepcopy(before)
    gen = state.gen
    children = vary(state, toolbox, evolution, rising) if gen else list(starts)
    earlier = set(evaluator.known)
    unrated = [child for child in children if not child.fitness.valid]
    evaluations = evaluate_generation(toolbox, unrated, gen, run, progress)
    if not gen or rising is not None:
        require_a_survivor(evaluations, run)
    living = {mask.hash: mask.evidence for mask in state.population}
    for child in unrated:
        child.evidence = child.evidence or living.get(child.hash)
    if rising is not None:
        state.population = []
        state.bests.clear()
        state.hall_of_fame.clear()
    state.population = replace(state, children, toolbox, evolution)
    improve(state, children, len(evaluator.objectives))
    best, new = state.bests[-1][1], set(evaluator.known) - earlier
    log_generation(state.logbook, gen, state.population, best, evaluator.known, new)
    # what was evaluated before an interruption is not there with its evidence later, so none keeps it but the living
    evaluator.known |= {h: replace_fields(evaluator.known[h], evidence=None) for h in new}
    state.gen += 1
    state.seconds += time.perf_counter() - began
    return state


def first_state(problem: Problem, toolbox: base.Toolbox, evolution: Evolution, seed: int, run: Run | None) -> State:
    """Returns the last checkpoint's state, or that before the first generation; the evaluator knows what was before."""
    evaluator: Evaluator = toolbox.evaluate.func

    def empty() -> tools.HallOfFame:
        return make_hall_of_fame(evolution, len(evaluator.objectives))

    state = None if run is None else checkpoint.load_state(run, problem.shapes, empty)
    if state is None:
        variation, selection = seeds.generator(seed, "variation"), random.Random(seeds.integer(seed, "selection"))
        state = State([], empty(), variation, selection)
    if run is not None:
        evaluator.known = run.known_before(state.gen)
    return state


def _train(
    problem: Problem, toolbox: base.Toolbox, plan: Plan, state: State, seed: int, run: Run | None, progress: bool
) -> dict[str, FinalTraining]:
    brief = toolbox.evaluate.func.brief
    chosen = {"winner": state.bests[-1][1]} | ({"start": state.bests[0][1]} if plan.controls else {})
    return train_chosen(problem, chosen, plan, (brief.engine, brief.threads, brief.seed), seed, run, progress)


def _result(
    problem: Problem,
    toolbox: base.Toolbox,
    plan: Plan,
    evolution: Evolution,
    starts: Starts,
    state: State,
    trainings: dict[str, FinalTraining],
    bests: list[dict[str, Any]],
    seed: int,
) -> Result:
    evaluator: Evaluator = toolbox.evaluate.func
    winner, training, known = state.bests[-1][1], trainings["winner"], evaluator.known
    evaluations = [known[mask.hash] for mask in state.population]
    first = state.bests[0][1]
    summary = {
        "method": plan.method,
        **describe_problem(problem, seed),
        **describe_training(problem, winner, training),
        "k": evolution.k,
        "fitness": ", ".join(objective.name for objective in evaluator.objectives),
        "engine": ", ".join(dict.fromkeys([evaluator.brief.engine, *training.engines])),
        "winner_fitness": winner.fitness.values[0],
        "winner_status": known[winner.hash].status,
        "generations": state.gen - 1,
        "evaluations": len(known),
        "stopped_by": reason_to_stop(state, evolution),
        "hall_of_fame": len(state.hall_of_fame),
        **_cost(problem, evaluator, plan, starts, training),
        **count_failures(known.values()),
        "no_better_than_chance": sum(e.status == NO_BETTER_THAN_CHANCE for e in known.values()),
        "controls": {"start": describe_training(problem, first, trainings["start"])} if plan.controls else {},
    }
    model = trained_model(problem, training)
    hall = list(state.hall_of_fame)
    return Result(winner, model, trainings, summary, state.logbook, state.population, evaluations, hall, bests)


def _cost(problem: Problem, evaluator: Evaluator, plan: Plan, starts: Starts, training: FinalTraining) -> dict[str, float]:
    """Returns what search and training cost; what the winner's training repeats of its evaluation is counted once."""
    brief, known, epochs = evaluator.brief, evaluator.known.values(), problem.recipe.epochs
    n = len(problem.part("train")[0])
    each = brief.epochs + (min(BATCH, n) / n if brief.evidence else 0.0)
    search_epochs = starts.search_epochs + len(known) * each
    repeated = 0 if plan.restart else brief.epochs
    evaluated = math.fsum(e.multiply_adds for e in known if math.isfinite(e.multiply_adds))
    return {
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + epochs - repeated,
        "multiply_adds": starts.cost + evaluated + training.cost(epochs) - training.cost(repeated),
        "seconds": starts.seconds + sum(e.seconds for e in known) + training.seconds,
    }
