"""The course of an evolution: first masks, generation after generation, the final trainings; each step resumable."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deap import base, tools
from torch import Tensor
from tqdm import tqdm

from evoprune import checkpoint, seeds
from evoprune.baselines import BASELINES, dense
from evoprune.brief import FAILURE, NO_BETTER_THAN_CHANCE, BriefTraining, split
from evoprune.callbacks import Callback
from evoprune.checkpoint import State
from evoprune.dissipation import Dissipation
from evoprune.errors import InputError, look_up
from evoprune.evaluate import Evaluator
from evoprune.evidence import BATCH
from evoprune.evolution import RANDOM, Evolution, make_hall_of_fame, reason_to_stop, register_operators, replace, vary
from evoprune.final import FinalTraining, train_fully, train_together
from evoprune.fitness import FAILED
from evoprune.generations import evaluate_generation, log_generation, require_a_survivor, write_generations
from evoprune.initialize import survivors_of
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.result import MEASURED, Result, describe_problem, describe_training, save, trained_model
from evoprune.run import Run
from evoprune.search import Plan, Where, train_chosen
from evoprune.signals import save_on_signals
from evoprune.toolbox import make_toolbox
from evoprune.train import multiply_adds

DISSIPATE = "dissipate"
DISSIPATE_EPOCHS = 8


@dataclass(frozen=True)
class Starts:
    """The first masks, the epochs of training that it took to find them, and their cost in multiply-adds."""

    masks: list[Mask]
    search_epochs: float
    cost: float


def search_generations(
    problem: Problem,
    evolution: Evolution,
    plan: Plan,
    search: Mapping[str, Any],
    trained_bests: int,
    callbacks: Sequence[Callback],
    where: Where,
) -> Result:
    """Evolves masks, and trains the fittest; see :func:`evoprune.algorithms.evolve`.

    Args:
        problem: The problem.
        evolution: The options of the evolution.
        plan: What is done with the fittest mask.
        search: Arguments of :func:`evoprune.toolbox.make_toolbox`; a ``seed`` may be None.
        trained_bests: How many of the generations' fittest masks are trained fully, too.
        callbacks: Called after each generation.
        where: Where it is done.
    """
    seed = problem.seed if search["seed"] is None else seeds.check_seed(search["seed"])
    names = [search["fitness"]] if isinstance(search["fitness"], str) else list(search["fitness"])
    search = {**search, "fitness": names, "sparsity": float(search["sparsity"]), "seed": seed, "evidence": evolution.evidence}
    evolution.require(search["sparsity"], problem.prunable_count, len(names))
    if isinstance(trained_bests, bool) or not isinstance(trained_bests, int) or trained_bests < 0:
        raise InputError(f"trained_bests is {trained_bests!r}; expected how many to train, at least 0.")
    given = given_masks(problem, evolution, search["sparsity"])
    toolbox = make_toolbox(problem, **search, workers=where.workers, threads=where.threads)
    register_operators(toolbox, evolution, search["sparsity"], len(names))
    evaluator: Evaluator = toolbox.evaluate.func
    settings = {
        "problem": problem.config(),
        **search,
        **asdict(evolution),
        "given": [mask.hash for mask in given],
        "fitness_terms": list(evaluator.terms),
        "restart": plan.restart,
        "controls": plan.controls,
        "trained_bests": trained_bests,
    }
    execution = {"workers": where.workers, "threads": where.threads, "engine": evaluator.brief.engine}
    run = None if where.out is None else Run.plan(where.out, plan.method, settings, execution, where.force)
    with nullcontext() if run is None else run.of(problem):
        if run is not None:
            evaluator.resume({}, run.divisors, run.execution["threads"], run.execution["engine"])
        if where.progress:
            tqdm.write(f"engine {evaluator.brief.engine}, {evaluator.brief.chunk} masks at a time")
        starts = first_masks(problem, evolution, given, toolbox, search, run)
        state = evolve_masks(problem, toolbox, evolution, starts.masks, seed, run, callbacks, where.progress)
        trainings = _train(problem, toolbox, plan, state, seed, run, where.progress)
        bests = train_bests(problem, evaluator.brief, state, trained_bests, run, where.progress)
        result = _result(problem, toolbox, plan, evolution, starts, state, trainings, bests, seed)
        if run is not None and not run.finished:
            save(run, result)
    return result


def given_masks(problem: Problem, evolution: Evolution, sparsity: float) -> list[Mask]:
    """Reads the masks that ``start`` names by their paths; of a run folder its mask, and its hall of fame.

    Raises:
        InputError: A name that is neither known nor a path, or a mask that does not fit.
    """
    low, high = evolution.bounds(sparsity)
    least, most = (survivors_of(s, problem.prunable_count) for s in (high, low))
    masks = []
    for name in evolution.start:
        if name in (RANDOM, DISSIPATE, *BASELINES):
            continue
        path = Path(name)
        if not path.exists():
            look_up("start", name, dict.fromkeys((RANDOM, DISSIPATE, *BASELINES, "the path of a mask or a run folder"), True))
        for file in [path / "mask.npz", *sorted(path.glob("hall_of_fame/*.npz"))] if path.is_dir() else [path]:
            mask = Mask.load(file, problem)
            if not least <= mask.survivors <= most:
                raise InputError(
                    f"{file} keeps {mask.survivors} weights; expected {least} to {most} for --sparsity {sparsity}."
                )
            masks.append(mask)
    return masks


def first_masks(
    problem: Problem,
    evolution: Evolution,
    given: Sequence[Mask],
    toolbox: base.Toolbox,
    search: Mapping[str, Any],
    run: Run | None,
) -> Starts:
    """Returns the masks of the first generation: what ``start`` names, and random ones where that is named, too."""

    def find() -> tuple[dict[str, Any], dict[str, Tensor]]:
        dense_epoch, epochs, costs = multiply_adds(problem, dense(problem)), 0.0, 0.0
        found = list(given)
        for name in dict.fromkeys(evolution.start):
            if name == DISSIPATE:
                training = _dissipate(problem, toolbox.evaluate.func, search["sparsity"])
                found.append(training.mask)
                epochs, costs = epochs + len(training.history), costs + training.cost(len(training.history))
            elif name in BASELINES and name != RANDOM:
                found.append(BASELINES[name].prune(problem, sparsity=search["sparsity"], seed=search["seed"]))
                epochs += BASELINES[name].search_epochs(problem, problem.recipe.epochs)
                costs += dense_epoch * BASELINES[name].search_cost(problem, search["sparsity"], problem.recipe.epochs)
        facts = {"search_epochs": epochs, "cost": costs}
        bits = np.array([mask.bits for mask in found], bool).reshape(len(found), problem.prunable_count)
        return facts, {"bits": torch.from_numpy(np.packbits(bits, axis=1))}

    facts, tensors = find() if run is None else run.step("starts", find)
    rows = np.unpackbits(tensors["bits"].numpy(), axis=1, count=problem.prunable_count).astype(bool)
    masks = [Mask(bits, problem.shapes) for bits in rows]
    if RANDOM in evolution.start:
        masks += toolbox.population(n=max(0, (evolution.starts or evolution.children) - len(masks)))
    return Starts(masks, facts["search_epochs"], facts["cost"])


def _dissipate(problem: Problem, evaluator: Evaluator, sparsity: float) -> FinalTraining:
    epochs = min(DISSIPATE_EPOCHS, problem.recipe.epochs)
    dissipation = Dissipation(epochs, sparsity)
    brief = evaluator.brief
    return train_fully(problem, dense(problem), "auto", brief.seed, brief.threads, lambda: None, dissipation, epochs, 0)


def evolve_masks(
    problem: Problem,
    toolbox: base.Toolbox,
    evolution: Evolution,
    starts: Sequence[Mask],
    seed: int,
    run: Run | None,
    callbacks: Sequence[Callback],
    progress: bool,
) -> State:
    """Makes generations until one of the limits is reached, each checkpointed.

    Args:
        problem: The problem.
        toolbox: The toolbox, with ``mate``, ``mutate`` and ``select``.
        evolution: The options.
        starts: The masks of the first generation.
        seed: Seed of the run.
        run: The run, which is resumed from its last checkpoint; None keeps none.
        callbacks: Called after each generation.
        progress: Show progress bars, and a line a generation.

    Returns:
        The state after the last generation.
    """
    state = _first_state(problem, toolbox, evolution, seed, run)
    saving = False

    def save_now() -> None:
        nonlocal saving
        if run is None or saving:  # a signal may come while it is being saved
            return
        saving = True
        try:
            checkpoint.save_state(run.checkpoint, state)
        finally:
            saving = False

    bar = tqdm(total=evolution.generations + 1, initial=state.gen, desc="generations", unit="gen", disable=not progress)
    with bar, save_on_signals(save_now):
        write_generations(run, state.logbook, problem.shapes)  # it may have been killed before they were written
        while not reason_to_stop(state, evolution):
            state = next_state(state, starts, toolbox, evolution, run, progress)
            save_now()
            write_generations(run, state.logbook, problem.shapes)
            if run is not None:
                checkpoint.drop_evidence(run.checkpoint, state.gen - 1)
            if progress:
                tqdm.write(state.logbook.stream)
                bar.set_postfix_str(f"best {state.logbook[-1]['best']:.5g}")
            bar.update()
            for callback in callbacks:
                callback.on_generation(state)
    return state


def next_state(
    before: State, starts: Sequence[Mask], toolbox: base.Toolbox, evolution: Evolution, run: Run | None, progress: bool
) -> State:
    """Returns the state after one more generation; the one before stays as it was, so that it can be saved at any time."""
    began = time.perf_counter()
    evaluator: Evaluator = toolbox.evaluate.func
    state = copy.deepcopy(before)
    gen = state.gen
    children = vary(state, toolbox, evolution) if gen else list(starts)
    earlier = set(evaluator.known)
    unrated = [child for child in children if not child.fitness.valid]
    evaluations = evaluate_generation(toolbox, unrated, gen, run, progress)
    if not gen:
        require_a_survivor(evaluations, run)
    living = {mask.hash: mask.evidence for mask in state.population}
    for child in unrated:
        child.evidence = child.evidence or living.get(child.hash)
    state.population = replace(state, children, toolbox, evolution)
    usable = [child for child in children if child.fitness.values[0] != FAILED]
    state.hall_of_fame.update(usable)
    best = state.hall_of_fame[0]
    if not state.bests or best != state.bests[-1][1]:
        state.bests.append((gen, best))
    new = set(evaluator.known) - earlier
    log_generation(state.logbook, gen, state.population, best, evaluator.known, new)
    # what was evaluated before an interruption is not there with its evidence later, so none keeps it but the living
    evaluator.known |= {h: replace_fields(evaluator.known[h], evidence=None) for h in new}
    state.gen += 1
    state.seconds += time.perf_counter() - began
    return state


def _first_state(problem: Problem, toolbox: base.Toolbox, evolution: Evolution, seed: int, run: Run | None) -> State:
    """Returns the last checkpoint's state, or that before the first generation; the evaluator knows what was before."""
    evaluator: Evaluator = toolbox.evaluate.func

    def empty() -> tools.HallOfFame:
        return make_hall_of_fame(evolution, len(evaluator.objectives))

    state = None if run is None else checkpoint.load_state(run.checkpoint, problem.shapes, empty)
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
    chosen = {"winner": state.hall_of_fame[0]} | ({"start": state.bests[0][1]} if plan.controls else {})
    return train_chosen(problem, chosen, plan, (brief.engine, brief.threads, brief.seed), seed, run, progress)


def train_bests(
    problem: Problem, brief: BriefTraining, state: State, count: int, run: Run | None, progress: bool
) -> list[dict[str, Any]]:
    """Trains the fittest masks of some generations fully from W0, together, to see what fitness is worth.

    Args:
        problem: The problem.
        brief: The brief training; the batches are the same.
        state: The state, with the fittest mask of each generation in which it changed.
        count: How many to train, evenly spread over those.
        run: The run; None records nothing.
        progress: Show a progress bar.

    Returns:
        Rows with the columns :data:`evoprune.result.BEST_COLUMNS`.
    """
    shown = np.unique(np.linspace(0, len(state.bests) - 1, min(count, len(state.bests))).round().astype(int))
    chosen = [state.bests[i] for i in shown]
    epochs = problem.recipe.epochs

    def train_them() -> tuple[dict[str, Any], dict[str, Tensor]]:
        rows = []
        groups = list(split(chosen, brief.chunk))
        with tqdm(total=epochs * len(groups), desc="bests", unit="epoch", disable=not progress) as bar:
            for group in groups:
                masks = [mask for _, mask in group]
                trainings = train_together(
                    problem, masks, brief.engine, brief.seed, brief.threads, lambda: bar.update() and None
                )
                for (gen, mask), training in zip(group, trainings, strict=True):
                    measured = {name: getattr(training, name) for name in MEASURED}
                    rows.append({"gen": gen, "mask": mask.hash, "fitness": mask.fitness.values[0], **measured})
        return {"rows": rows}, {}

    rows = (train_them() if run is None else run.step("bests", train_them))[0]["rows"]
    return [{**row, "test_loss": math.nan if row["test_loss"] is None else row["test_loss"]} for row in rows]


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
    winner, training, known = state.hall_of_fame[0], trainings["winner"], evaluator.known
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
        "failed": sum(e.status == FAILURE for e in known.values()),
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
    evaluated = sum(e.multiply_adds for e in known if math.isfinite(e.multiply_adds))
    return {
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + epochs - repeated,
        "multiply_adds": starts.cost + evaluated + training.cost(epochs) - training.cost(repeated),
        "seconds": sum(e.seconds for e in known) + training.seconds,
    }
