"""Evaluator: from masks to fitness, through brief training."""

from __future__ import annotations

import math
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import getpid
from typing import Any, TypeAlias, TypeVar

import torch

from evoprune import engines, seeds
from evoprune.dissipation import Dissipation, remover
from evoprune.engines import ENGINES
from evoprune.errors import InputError, look_up
from evoprune.fitness import FAILED, FITNESS, TERMS
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.train import measure, train

T = TypeVar("T")

OK, NO_BETTER_THAN_CHANCE, FAILURE = "ok", "no better than chance", "failed"


@dataclass(frozen=True)
class BriefTraining:
    """All that an evaluation depends on beside problem and mask.

    Attributes:
        epochs: Epochs of the brief training: the first of the recipe's.
        seed: Seeds batches and noise; one a run, the same for every individual.
        engine: Name of the engine.
        threads: Threads that torch uses.
        chunk_size: Masks that are evaluated together, where the engine takes several at a time.
        dissipation: What is removed during the brief training; None for nothing.
    """

    epochs: int
    seed: int
    engine: str = "module"
    threads: int = 1
    chunk_size: int = 8
    dissipation: Dissipation | None = None

    @property
    def chunk(self) -> int:
        """Masks in one piece of work."""
        return min(self.chunk_size, ENGINES[self.engine].capacity or self.chunk_size)


@dataclass(frozen=True)
class Evaluation:
    """What is known of a mask after its brief training.

    Attributes:
        mask: The mask's hash.
        seed: The evaluation's seed.
        terms: Raw fitness terms by name; NaN where a failure left none.
        validation_loss: Mean loss on the validation set.
        validation_accuracy: From 0 to 1; NaN where accuracy is not defined.
        status: ``ok``, ``no better than chance`` (the validation loss is not below that of the best prediction that
            ignores the input), or ``failed`` (something is not finite, or was raised).
        note: Why it failed; else what the mask cuts off, if anything.
        multiply_adds: What it cost, see :func:`evoprune.train.multiply_adds`; NaN where a failure left it open.
        worker: Host and process that did it.
        seconds: Time it took; a chunk's time is shared equally.
    """

    mask: str
    seed: int
    terms: Mapping[str, float]
    validation_loss: float
    validation_accuracy: float
    status: str
    note: str
    multiply_adds: float
    worker: str
    seconds: float


Chunk: TypeAlias = Sequence[Mask]
# Evaluates chunks by their indices, and yields each index with its evaluations as they finish.
Workers: TypeAlias = Callable[["Evaluator", Sequence[Chunk]], Iterable[tuple[int, list[Evaluation]]]]


class Evaluator:
    """Fitness of masks, for one problem and one brief training.

    As a function of a mask it is what DEAP calls ``evaluate``: it returns a tuple with the fitness, -inf for a failure.
    An evaluation is deterministic, so a mask is evaluated once.

    Args:
        problem: The problem.
        fitness: Name of the fitness, see :data:`evoprune.fitness.FITNESS`.
        epochs: Epochs of the brief training.
        engine: Name of the engine, see :data:`evoprune.engines.ENGINES`.
        threads: Threads that torch uses in every evaluating process. Results may differ in their last bits between
            numbers of threads.
        chunk_size: Masks that are evaluated together; never depends on the number of workers.
        seed: The run's seed; None takes the problem's.
        dissipation: What is removed during the brief training; None for nothing.

    Raises:
        InputError: A value out of range or an unknown name.
    """

    # no __dict__: Toolbox.register would copy it onto its partial, and every pickled task would carry it
    __slots__ = ("_payload", "brief", "divisors", "fitness", "known", "problem")

    def __init__(
        self,
        problem: Problem,
        *,
        fitness: str = "magnitude",
        epochs: int = 2,
        engine: str = "module",
        threads: int = 1,
        chunk_size: int = 8,
        seed: int | None = None,
        dissipation: Dissipation | None = None,
    ) -> None:
        for name, value in (("fitness_epochs", epochs), ("threads", threads), ("chunk_size", chunk_size)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; expected a positive integer.")
        if epochs > problem.recipe.epochs:
            raise InputError(
                f"fitness_epochs is {epochs}, but the recipe has {problem.recipe.epochs} epochs; a brief training is "
                f"the first part of the full one, so expected at most that."
            )
        engines.require(engine, problem)
        order = seeds.integer(problem.seed if seed is None else seed, "order")
        self.problem = problem
        self.fitness = look_up("fitness", fitness, FITNESS)
        self.brief = BriefTraining(epochs, order, engine, threads, chunk_size, dissipation)
        self.known: dict[str, Evaluation] = {}
        self.divisors: dict[str, float] = {}
        self._payload: bytes | None = None

    def resume(self, known: Mapping[str, Evaluation], divisors: Mapping[str, float], threads: int, engine: str) -> None:
        """Goes on from what a run has recorded.

        Args:
            known: Finished evaluations by mask hash.
            divisors: Divisors of the fitness; empty where it was not calibrated yet.
            threads: The run's threads.
            engine: The run's engine.
        """
        self.known, self.divisors = dict(known), dict(divisors)
        self.brief = replace(self.brief, threads=threads, engine=engine)

    def __call__(self, mask: Mask) -> tuple[float]:
        """Returns the fitness of one mask, as DEAP wants it.

        Raises:
            InputError: The fitness has several terms and no population was evaluated yet.
        """
        if self.fitness.needs_calibration and not self.divisors:
            self.fitness.value({}, {})
        if mask.hash not in self.known:
            self.known[mask.hash] = evaluate_chunk(self.problem, [mask], self.brief)[0]
        return (self.value(self.known[mask.hash]),)

    def evaluate(
        self,
        masks: Iterable[Mask],
        workers: Workers,
        on_result: Callable[[list[Evaluation]], None] | None = None,
    ) -> list[Evaluation]:
        """Evaluates a population, each distinct mask once, and calibrates the fitness if it is the first one.

        Args:
            masks: The population.
            workers: Who evaluates; see :mod:`evoprune.parallel`.
            on_result: Called with the new evaluations of each finished chunk before anything uses them.

        Returns:
            One evaluation a mask, in the order of the masks.
        """
        masks = list(masks)
        for mask in masks:
            mask.require(self.problem.shapes)
        hashes = [mask.hash for mask in masks]
        distinct = list(dict(zip(hashes, masks, strict=True)).items())
        # a chunk that is partly known is evaluated whole: under some engines company changes the last bits
        chunks = [
            [mask for _, mask in chunk]
            for chunk in split(distinct, self.brief.chunk)
            if any(h not in self.known for h, _ in chunk)
        ]
        for _, chunk in workers(self, chunks):
            evaluations = [evaluation for evaluation in chunk if evaluation.mask not in self.known]
            if on_result is not None:
                on_result(evaluations)
            self.known.update({evaluation.mask: evaluation for evaluation in evaluations})
        found = [self.known[h] for h in hashes]
        usable = [evaluation.terms for evaluation in found if evaluation.status != FAILURE]
        if not self.divisors and usable:
            self.divisors = self.fitness.calibrate(usable)
        return found

    def value(self, evaluation: Evaluation) -> float:
        """Returns the fitness that an evaluation amounts to; -inf for a failure."""
        if evaluation.status == FAILURE:
            return FAILED
        return self.fitness.value(evaluation.terms, self.divisors)

    @property
    def payload(self) -> bytes:
        """The pickled problem, for a worker that does not have it yet."""
        if self._payload is None:
            try:
                self._payload = pickle.dumps(self.problem)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"the problem cannot be sent to workers: {error}. Define its module, function and loss at the top of a "
                    f"file, not inside a function."
                ) from error
        return self._payload

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.problem.hash, self.payload, self.fitness, self.brief, self.divisors)


def evaluate_chunk(problem: Problem, masks: Chunk, brief: BriefTraining) -> list[Evaluation]:
    """Evaluates masks; one that fails does not fail the others.

    Args:
        problem: The problem.
        masks: The masks, trained together as far as the engine can.
        brief: The brief training.
    """
    evaluations: list[Evaluation] = []
    with torch_threads(brief.threads):
        for group in split(masks, brief.chunk):
            start = time.perf_counter()
            try:
                measured = _train_group(problem, group, brief)
            except Exception as error:  # noqa: BLE001 - a failed evaluation is a fact, not a crash
                if len(group) > 1:
                    evaluations += [e for mask in group for e in evaluate_chunk(problem, [mask], brief)]
                    continue
                measured = [(dict.fromkeys(TERMS, math.nan), math.nan, math.nan, _reason(error), math.nan, group[0])]
            seconds = (time.perf_counter() - start) / len(group)
            for mask, (terms, loss, accuracy, reason, cost, left) in zip(group, measured, strict=True):
                status, note = _status(problem, left, {**terms, "validation loss": loss}, reason)
                evaluations.append(
                    Evaluation(mask.hash, brief.seed, terms, loss, accuracy, status, note, cost, worker_name(), seconds)
                )
    return evaluations


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Lets torch use so many threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def split(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yields consecutive slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def worker_name() -> str:
    """Returns host and process id."""
    return f"{socket.gethostname()}:{getpid()}"


# The problems that this process has, by hash: a worker builds each once. Workers of every kind call plain functions, so
# there is no other place that outlives a call.
_problems: dict[str, Problem] = {}


def remember(problem: Problem) -> None:
    """Keeps a problem for :func:`recall`."""
    _problems[problem.hash] = problem


def recall(problem_hash: str, payload: bytes | None) -> Problem | None:
    """Returns this process's problem of that hash, made from the payload the first time; None without either.

    Raises:
        InputError: The payload makes another problem here: other data, versions or code than at the origin.
    """
    if problem_hash not in _problems and payload is not None:
        problem = pickle.loads(payload)  # noqa: S301 - from the run's own origin, over the run's own channel
        if problem.hash != problem_hash:
            raise InputError(
                f"on {worker_name()} the problem has another hash than at the origin; expected the same data files, "
                f"code and library versions on every host."
            )
        remember(problem)
    return _problems.get(problem_hash)


def _unpickle(problem_hash: str, payload: bytes, fitness: Any, brief: BriefTraining, divisors: Any) -> Evaluator:
    problem = recall(problem_hash, payload)
    assert problem is not None
    evaluator = Evaluator(problem, epochs=brief.epochs)
    evaluator.fitness, evaluator.brief, evaluator.divisors = fitness, brief, divisors
    return evaluator


def _train_group(
    problem: Problem, masks: Chunk, brief: BriefTraining
) -> list[tuple[dict[str, float], float, float, str, float, Mask]]:
    """Returns terms, validation loss and accuracy, no reason for a failure, cost, and the mask that is left, of each."""
    population = ENGINES[brief.engine].build(problem, masks)
    prune = None if brief.dissipation is None else remover(problem, brief.dissipation, brief.seed)
    trained = train(population, problem, brief.epochs, brief.seed, prune=prune)
    validation = measure(population, problem, "validation")
    terms = {name: term(trained, validation) for name, term in TERMS.items()}
    return [
        (
            {name: float(values[k]) for name, values in terms.items()},
            float(validation.loss[k]),
            float(validation.accuracy[k]),
            "",
            float(trained.epoch_costs[:, k].sum()),
            trained.population.masks[k],
        )
        for k in range(len(masks))
    ]


def _status(problem: Problem, mask: Mask, values: Mapping[str, float], reason: str) -> tuple[str, str]:
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if reason or wrong:
        return FAILURE, reason or "; ".join(wrong)
    chance = problem.chance_loss
    status = NO_BETTER_THAN_CHANCE if chance is not None and values["validation loss"] >= chance else OK
    return status, collapse_note(problem, mask)


def collapse_note(problem: Problem, mask: Mask) -> str:
    """Returns what the mask cuts off, in words; empty for nothing."""
    try:
        return str(mask.collapse(problem))
    except Exception as error:  # noqa: BLE001 - a module that the report cannot follow was trained all the same
        return f"collapse not known: {_reason(error)}"


def _reason(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})".replace("\n", " ")
