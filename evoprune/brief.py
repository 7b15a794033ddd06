"""Brief training of a chunk of masks, and what it says of each."""

from __future__ import annotations

import math
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import getpid
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from evoprune.dissipation import Dissipation, remover
from evoprune.engines import ENGINES
from evoprune.errors import RunError, is_of_the_machine
from evoprune.evidence import evidence_cost, take_evidence
from evoprune.fitness import ACCURACY, BUILT_IN_TERMS, TERMS
from evoprune.forks import settle
from evoprune.mask import Mask
from evoprune.operators import Evidence
from evoprune.problem import Problem
from evoprune.seeds import noise
from evoprune.train import Measured, Trained, measure, train

T = TypeVar("T")

UNKNOWN_COLLAPSE = "collapse not known"
STATUSES = OK, NO_BETTER_THAN_CHANCE, FAILURE, MACHINE_FAILURE = "ok", "no better than chance", "failed", "machine failure"


@dataclass(frozen=True)
class BriefTraining:
    """All that an evaluation depends on beside problem and mask.

    Attributes:
        epochs: Epochs of the brief training: the first of the recipe's; 0 judges untrained networks.
        seed: Seeds batches and noise; one a run, the same for every individual.
        engine: Name of the engine.
        threads: Threads that torch uses.
        chunk_size: Masks that are evaluated together, where the engine takes several at a time.
        dissipation: What is removed during the brief training; None for nothing.
        evidence: Fraction of the survivors that :func:`evoprune.evidence.take_evidence` names; 0 takes none.
        drop: What it ranks them by: ``absolute`` or ``relative`` movement, ``magnitude``, or ``random``.
        terms: Fitness terms that are asked for. One of the user's own that fails is NaN, and fails a mask only where it is
            among them; the built-in ones are always measured, and must be finite.
    """

    epochs: int
    seed: int
    engine: str = "module"
    threads: int = 1
    chunk_size: int = 8
    dissipation: Dissipation | None = None
    evidence: float = 0.0
    drop: str = "absolute"
    terms: tuple[str, ...] = ()

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
            ignores the input), ``failed`` (something is not finite, or was raised), or ``machine failure`` (there was no
            memory, or the like: no fact about the mask, which may be tried again).
        note: Why it failed; else what the mask cuts off, if anything.
        multiply_adds: What it cost, see :func:`evoprune.train.multiply_adds`; NaN where a failure left it open.
        worker: Host and process that did it.
        seconds: Time it took; a chunk's time is shared equally.
        evidence: For the informed mutation, where it was asked for and nothing failed; recorded apart.
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
    evidence: Evidence | None = field(default=None, compare=False, repr=False)

    @property
    def has_failed(self) -> bool:
        """Whether there is nothing to judge the mask by."""
        return self.status in (FAILURE, MACHINE_FAILURE)

    @property
    def values(self) -> dict[str, float]:
        """What fitness is made of: the raw terms, and the validation accuracy."""
        return {**self.terms, ACCURACY: self.validation_accuracy}


Chunk: TypeAlias = Sequence[Mask]


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
                found = _train_group(problem, group, brief)
            except Exception as error:  # noqa: BLE001 - a failed evaluation is a fact, not a crash
                if len(group) > 1:
                    evaluations += [e for mask in group for e in evaluate_chunk(problem, [mask], brief)]
                    continue
                status = MACHINE_FAILURE if is_of_the_machine(error) else FAILURE
                found = [failed(group[0], brief, _reason(error), status)]
            seconds = (time.perf_counter() - start) / len(group)
            evaluations += [replace(evaluation, seconds=seconds) for evaluation in found]
    return evaluations


def failed(mask: Mask, brief: BriefTraining, note: str, status: str = FAILURE) -> Evaluation:
    """Returns the evaluation of a mask that could not be evaluated.

    Args:
        mask: The mask.
        brief: The brief training.
        note: Why.
        status: Whether it was the mask's failure or the machine's.
    """
    terms = dict.fromkeys(TERMS, math.nan)
    return Evaluation(mask.hash, brief.seed, terms, math.nan, math.nan, status, note, math.nan, worker_name(), 0.0)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Lets torch use so many threads, and as many as before afterwards.

    Raises:
        InputError: Several, in a forked process.
    """
    settle(threads)
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


def _train_group(problem: Problem, masks: Chunk, brief: BriefTraining) -> list[Evaluation]:
    population = ENGINES[brief.engine].build(problem, masks)
    prune = None if brief.dissipation is None else remover(problem, brief.dissipation, brief.seed)
    trained = train(population, problem, brief.epochs, brief.seed, prune=prune)
    validation = measure(population, problem, "validation")
    by_name = {name: _measure_term(name, trained, validation, brief) for name in TERMS}
    evaluations = []
    for k, mask in enumerate(masks):
        terms = {name: float(values[k]) for name, values in by_name.items()}
        loss, accuracy = float(validation.loss[k]), float(validation.accuracy[k])
        needed = {name: value for name, value in terms.items() if name in BUILT_IN_TERMS or name in brief.terms}
        status, note = _status(problem, trained.population.masks[k], {**needed, "validation loss": loss}, brief.epochs)
        cost, evidence = float(trained.epoch_costs[:, k].sum()), None
        if brief.evidence and status != FAILURE:
            evidence = take_evidence(
                problem, trained.population, k, seed=brief.seed, fraction=brief.evidence, movement=brief.drop
            )
            cost += evidence_cost(problem)
        evaluations.append(
            Evaluation(mask.hash, brief.seed, terms, loss, accuracy, status, note, cost, worker_name(), 0.0, evidence)
        )
    return evaluations


def _measure_term(name: str, trained: Trained, validation: Measured, brief: BriefTraining) -> NDArray[np.float64]:
    """Returns a term's values [K]; NaN for one of the user's own that fails and that nobody asked for."""
    expected = (trained.population.size,)
    try:
        with noise(brief.seed, brief.epochs):  # one of the user's own may draw
            values = np.asarray(TERMS[name](trained, validation), np.float64)
        if values.shape != expected:
            raise RunError(f"it returned values of shape {values.shape}; expected {expected}, a number for each mask")
    except Exception as error:
        if name in BUILT_IN_TERMS:
            raise
        if name in brief.terms:
            raise RunError(f"the fitness term {name!r} failed: {_reason(error)}") from error
        return np.full(expected, math.nan)
    return values


def _status(problem: Problem, mask: Mask, values: Mapping[str, float], epochs: int) -> tuple[str, str]:
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        return FAILURE, "; ".join(wrong)
    chance = problem.chance_loss if epochs else None  # untrained networks are not expected to be better
    status = NO_BETTER_THAN_CHANCE if chance is not None and values["validation loss"] >= chance else OK
    return status, collapse_note(problem, mask)


def collapse_note(problem: Problem, mask: Mask) -> str:
    """Returns what the mask cuts off, in words; empty for nothing."""
    try:
        return str(mask.collapse(problem))
    except Exception as error:  # noqa: BLE001 - a module that the report cannot follow was trained all the same
        return f"{UNKNOWN_COLLAPSE}: {_reason(error)}"


def _reason(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})".replace("\n", " ")
