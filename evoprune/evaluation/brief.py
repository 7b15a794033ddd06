"""Brief training of a chunk of masks, and what it says of each."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evoprune.engines.registry import ENGINES
from evoprune.errors import RunError, is_of_the_machine
from evoprune.evaluation.chunks import Chunk, split
from evoprune.evaluation.evaluation import FAILURE, MACHINE_FAILURE, NO_BETTER_THAN_CHANCE, OK, Evaluation, failed, worker_name
from evoprune.evaluation.evidence import evidence_cost, take_evidence
from evoprune.evaluation.terms import BUILT_IN_TERMS, TERMS
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.seeds import noise
from evoprune.training.dissipation import Dissipation
from evoprune.training.loop import Trained, train
from evoprune.training.measure import Measured, measure
from evoprune.training.threads import torch_threads

UNKNOWN_COLLAPSE = "collapse not known"


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
        evidence: Fraction of the survivors that :func:`evoprune.evaluation.evidence.take_evidence` names; 0 takes none.
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
                found = [failed(group[0], brief.seed, _reason(error), status)]
            seconds = (time.perf_counter() - start) / len(group)
            evaluations += [replace(evaluation, seconds=seconds) for evaluation in found]
    return evaluations


def _train_group(problem: Problem, masks: Chunk, brief: BriefTraining) -> list[Evaluation]:
    population = ENGINES[brief.engine].build(problem, masks)
    schedule = None if brief.dissipation is None else brief.dissipation.start()
    trained = train(population, problem, brief.epochs, brief.seed, schedule=schedule)
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
