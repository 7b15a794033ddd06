"""The course of a search: prepare, evaluate, choose, train, record. Each step is resumable."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.baselines.random_masks import dense
from evoprune.engines import auto
from evoprune.evaluation.evaluator import Evaluator
from evoprune.loggers.protocol import Start
from evoprune.loggers.registry import make_loggers
from evoprune.loggers.running import Loggers
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.checkpoints import pack_snapshot, unpack_snapshot
from evoprune.runs.journal import Journal, open_journal
from evoprune.runs.records import as_json
from evoprune.runs.result import Result, describe_problem, describe_training, identity_of, trained_model
from evoprune.search.execution import Execution
from evoprune.search.final import train_chosen
from evoprune.search.generations import log_generation
from evoprune.search.history import History
from evoprune.search.method import AskTell, Method, identify_own, make_options, plan_of, require
from evoprune.search.report import describe_cost, describe_failures, describe_search
from evoprune.search.session import Evaluating, Session
from evoprune.search.toolbox import make_evaluator
from evoprune.system.importing import require_main_guard
from evoprune.training.cost import multiply_adds
from evoprune.training.determinism import deterministic, require_deterministic
from evoprune.workers.base import Workers
from evoprune.workers.choose import choose_workers, require_devices


def run(name: str, method: Method, problem: Problem, given: Mapping[str, Any]) -> Result:
    """Runs a method with flat keywords.

    Args:
        name: Name of the method, as in records.
        method: The method.
        problem: The problem.
        given: Fields of the method's options and of :class:`evoprune.search.execution.Execution`.

    Raises:
        InputError: A keyword that neither has, or a value out of range.
    """
    options, execution = make_options(method, given)
    return carry_out(name, method, problem, options, execution)


def carry_out(name: str, method: Method, problem: Problem, options: Any, execution: Execution) -> Result:
    """Runs a method.

    Args:
        name: Name of the method, as in records.
        method: The method.
        problem: The problem.
        options: Its options.
        execution: How it is carried out.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the winner's final training diverged.
    """
    require_main_guard()
    loggers = make_loggers(execution.log)
    seed = problem.seed if execution.seed is None else seeds.check_seed(execution.seed)
    require(method, problem, options)
    name = method.name_of(options) if hasattr(method, "name_of") else name
    course = _find_and_train if hasattr(method, "find") else _search_and_train
    with (
        _session(name, method, problem, seed, options, execution, loggers) as session,
        deterministic(problem.device, session.deterministic),
    ):
        result = _with_cost(problem, course(name, method, session, options))
        session.journal.save(result)
        session.loggers.finish(result)
    return result


def _with_cost(problem: Problem, result: Result) -> Result:
    """Returns a result with its cost, in epochs of training the dense network; None for a network that multiplies nothing."""
    whole = multiply_adds(problem, dense(problem))
    return replace(result, summary={**result.summary, "cost": result.summary["multiply_adds"] / whole if whole else None})


@contextmanager
def _session(
    name: str, method: Method, problem: Problem, seed: int, options: Any, execution: Execution, loggers: Loggers
) -> Iterator[Session]:
    """Opens the journal, the workers if masks are evaluated, and the loggers."""
    settings = {**settings_of(method, problem, options), "problem": problem.config(), "seed": seed, "engine": execution.engine}
    own = identify_own(method, options, problem)
    if hasattr(method, "find"):
        auto.resolve(execution.engine, problem, 0.0, 1)  # refuses an engine that cannot serve
        recorded = {**execution.recorded(execution.engine, problem.device), "workers": "serial"}
        journal = open_journal(execution, name, settings, recorded)
        require_deterministic(problem, journal.execution.get("deterministic", True))
        with journal.of(problem, own), loggers.running(start_of(name, settings, journal, problem), journal):
            yield Session(problem, journal, seed, execution, loggers=loggers)
        return
    evaluator = prepare_evaluator(method, problem, seed, options, execution)
    require_devices(execution.devices, problem.device)
    workers = choose_workers(execution.workers, execution.evaluation_timeout, execution.devices)
    names = [objective.name for objective in evaluator.objectives]  # a fitness may be given as a function
    settings["fitness"] = names if isinstance(settings["fitness"], (list, tuple)) else names[0]
    settings["fitness_terms"] = list(evaluator.terms)
    journal = open_journal(execution, name, settings, execution.recorded(evaluator.brief.engine, problem.device))
    require_deterministic(problem, journal.execution.get("deterministic", True))
    with journal.of(problem, {**evaluator.job.identify_terms(), **own}), closing(workers, execution.workers):
        kept = journal.execution
        evaluator.resume({}, journal.divisors, kept["threads"], kept["engine"], kept.get("deterministic"))
        with loggers.running(start_of(name, settings, journal, problem), journal):
            yield Session(problem, journal, seed, execution, Evaluating(evaluator, workers), loggers)


def start_of(name: str, settings: Mapping[str, Any], journal: Journal, problem: Problem) -> Start:
    """Returns the event that loggers are told when a session begins; a problem that is not recorded needs no hash."""
    problem_hash = "" if journal.folder is None else problem.hash
    return Start(name, as_json(settings, _name_of), dict(journal.execution), problem_hash, journal.folder)


def _name_of(own: object) -> str:
    """Returns the name of a function or object of the user's, which a run without a folder may have in its settings."""
    return str(getattr(own, "__qualname__", type(own).__qualname__))


@contextmanager
def closing(workers: Workers, given: object) -> Iterator[None]:
    """Closes workers at the end if they were given by name, since only this search uses them."""
    try:
        yield
    finally:
        if isinstance(given, str):
            workers.close()


def prepare_evaluator(method: Method, problem: Problem, seed: int, options: Any, execution: Execution) -> Evaluator:
    """Returns a method's evaluator.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    more = method.evaluator(problem, options) if hasattr(method, "evaluator") else {}
    return make_evaluator(problem, options, seed, execution, chunk_size=chunk_size_of(options), **more)


def chunk_size_of(options: Any) -> int:
    """Returns how many masks are evaluated together: by default a quarter of k, at most 8, so that four processes have work."""
    size: int | None = options.chunk_size
    return max(1, min(8, getattr(options, "k", 32) // 4)) if size is None else size


def settings_of(method: Method, problem: Problem, options: Any) -> dict[str, Any]:
    """Returns a method's options as a run records them."""
    if hasattr(method, "settings"):
        return dict(method.settings(problem, options))
    return {**asdict(options), "chunk_size": chunk_size_of(options)} if hasattr(options, "chunk_size") else asdict(options)


def _find_and_train(name: str, method: Method, session: Session, options: Any) -> Result:
    problem = session.problem
    plan = plan_of(method, problem, options)

    def find() -> tuple[dict[str, Any], dict[str, Tensor]]:
        start = time.perf_counter()
        found = method(session, options).find()
        facts = {"search_epochs": found.search_epochs, "search_cost": found.search_cost, "seconds": time.perf_counter() - start}
        tensors = {"bits": torch.from_numpy(np.packbits(found.mask.bits))}
        if found.mask.snapshot is not None:
            facts["snapshot"], its = pack_snapshot("rewound", found.mask.snapshot)
            tensors |= its
        return facts, tensors

    facts, tensors = session.journal.step("mask", find)
    mask = Mask.from_packed(tensors["bits"].numpy(), problem.shapes)
    if "snapshot" in facts:
        mask.snapshot = unpack_snapshot("rewound", facts["snapshot"], tensors)
    training = train_chosen(session, {"winner": mask}, plan)["winner"]
    whole = multiply_adds(problem, dense(problem))
    search_epochs = facts["search_epochs"] + plan.last
    summary = {
        "method": name,
        **describe_problem(problem, session.seed),
        **describe_training(problem, mask, training),
        "engine": ", ".join(training.engines),
        "search_epochs": search_epochs,
        "total_epochs": search_epochs + training.epochs - (0 if plan.restart else plan.last),
        "multiply_adds": facts["search_cost"] * whole + training.search_cost + training.cost(training.epochs),
        "seconds": facts["seconds"] + training.seconds,
        "controls": {},
    }
    return Result(
        mask=training.mask,
        model=trained_model(problem, training),
        trainings={"winner": training},
        summary=summary,
        identity=identity_of(problem),
    )


def _search_and_train(name: str, method: Method, session: Session, options: Any) -> Result:
    problem, brief = session.problem, session.evaluator.brief
    plan = plan_of(method, problem, options)
    session.say(f"engine {brief.engine}, {session.evaluator.job.chunk} masks at a time")
    search = method(session, options)
    history = search.drive() if hasattr(search, "drive") else drive(session, search)
    chosen: dict[str, Mask] = search.chosen() if hasattr(search, "chosen") else {"winner": history.winner}
    trainings = train_chosen(session, chosen, plan)
    winner = trainings["winner"]
    more = search.report(history, trainings) if hasattr(search, "report") else {
        **describe_cost(session, plan.restart, winner),
        **describe_failures(session.evaluator.known.values()),
    }  # fmt: skip
    return Result(
        mask=_plain(chosen["winner"]) if plan.schedule is None else winner.mask,
        model=trained_model(problem, winner),
        trainings=trainings,
        summary={**describe_search(session, name, chosen, trainings), **more},
        logbook=history.logbook,
        population=[_plain(mask) for mask in history.population],
        evaluations=[session.evaluator.known[mask.key] for mask in history.population],
        hall_of_fame=[_plain(mask) for mask in history.hall_of_fame],
        bests=history.bests,
        identity=identity_of(problem),
    )


def _plain(mask: Mask) -> Mask:
    """Returns a mask without the state of its training: whoever evaluates it after the search means the mask, from W0."""
    if mask.snapshot is None and not mask.parent:
        return mask
    twin = copy.deepcopy(mask)
    twin.snapshot, twin.parent = None, ""
    return twin


def drive(session: Session, search: AskTell) -> History:
    """Asks, evaluates and tells until the search is finished.

    Args:
        session: The session.
        search: The search.

    Raises:
        RunError: Every evaluation of a first generation failed.
    """
    history, known = History(), session.evaluator.known
    for gen in count():
        if search.finished:
            break
        masks = list(search.ask())
        earlier = set(known)
        evaluations = session.evaluate(masks, gen)
        fittest = history.enter(masks)
        log_generation(history.logbook, gen, masks, fittest, known, set(known) - earlier)
        session.record_generations(history.logbook)
        if not gen:
            session.require_a_survivor(evaluations)
        search.tell(masks)
    return history
