"""Brief training of a chunk of masks, and the evaluation of each."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evoprune.engines.population import Population
from evoprune.engines.snapshot import begin, take_snapshots
from evoprune.errors import RunError, is_of_the_machine
from evoprune.evaluation.chunks import Chunk, split
from evoprune.evaluation.evaluation import (
    FAILURE,
    MACHINE_FAILURE,
    NO_BETTER_THAN_CHANCE,
    OK,
    Evaluation,
    failed,
    key_of,
    worker_name,
)
from evoprune.evaluation.evidence import evidence_cost, take_evidence
from evoprune.evaluation.job import Job
from evoprune.evaluation.terms import BUILT_IN_TERMS, TERMS, Outcome, call_term
from evoprune.masks.mask import Mask
from evoprune.masks.snapshot import Snapshot
from evoprune.problem.metrics import column
from evoprune.problem.problem import Problem
from evoprune.seeds import noise
from evoprune.training.determinism import deterministic
from evoprune.training.history import Row, enter_costs, history_rows
from evoprune.training.loop import Trained, train
from evoprune.training.measure import Measured, measure
from evoprune.training.threads import torch_threads

UNKNOWN_COLLAPSE = "collapse not known"


def evaluate_chunk(job: Job, masks: Chunk) -> list[Evaluation]:
    """Evaluates masks; one that fails does not fail the others.

    Args:
        job: The job.
        masks: The masks, trained together as far as the engine can.
    """
    evaluations: list[Evaluation] = []
    with torch_threads(job.brief.threads), deterministic(job.problem.device, job.brief.deterministic):
        for group in split(masks, job.chunk):
            start = time.perf_counter()
            try:
                found = _train_group(job, group)
            except Exception as error:  # noqa: BLE001 - a failed evaluation is a fact, not a crash
                if len(group) > 1:
                    evaluations += [e for mask in group for e in evaluate_chunk(job, [mask])]
                    continue
                status = MACHINE_FAILURE if is_of_the_machine(error) else FAILURE
                found = [failed(key_of(group[0], job.brief.inherit), job.brief.seed, _reason(error), status, job.measured)]
            seconds = (time.perf_counter() - start) / len(group)
            evaluations += [replace(evaluation, seconds=seconds) for evaluation in found]
    return evaluations


def _train_group(job: Job, masks: Chunk) -> list[Evaluation]:
    problem, brief = job.problem, job.brief
    inherited = [mask.snapshot for mask in masks if brief.inherit and mask.parent and mask.snapshot is not None]
    begun = begin(job.engine, problem, masks, inherited)
    schedule = None if brief.dissipation is None else brief.dissipation.start()
    histories = [[dict(row) for row in snapshot.history] for snapshot in inherited] or [[] for _ in masks]

    measured: list[Measured] = []

    def keep_history(epoch: int, population: Population, train_loss: NDArray[np.float64]) -> None:
        measured.append(measure(population, problem, "validation"))
        for history, row in zip(histories, history_rows(epoch, population, train_loss, measured[-1]), strict=True):
            history.append(row)

    trained = train(begun, problem, brief.epochs, brief.seed, keep_history if brief.inherit else None, schedule)
    validation = measured[-1] if measured else measure(trained.population, problem, "validation")
    snapshots = _take_snapshots(trained, begun.epochs + brief.epochs, histories) if brief.inherit else None
    outcome = Outcome(**vars(trained), problem=problem, validation=validation)
    by_name = {name: _measure_term(name, outcome, job) for name in (*BUILT_IN_TERMS, *job.terms)}
    metrics = {column(name): values for name, values in validation.metrics.items()}
    evaluations = []
    for k, mask in enumerate(masks):
        terms = {name: float(values[k]) for name, values in by_name.items()}
        loss, accuracy = float(validation.loss[k]), float(validation.accuracy[k])
        status, note = _status(problem, trained.population.masks[k], {**terms, "validation loss": loss}, brief.epochs)
        cost, evidence = float(trained.epoch_costs[:, k].sum()), None
        if brief.evidence and status != FAILURE:
            evidence = take_evidence(
                problem, trained.population, k, seed=brief.seed, fraction=brief.evidence, movement=brief.drop
            )
            cost += evidence_cost(problem)
        evaluations.append(
            Evaluation(
                mask=key_of(mask, brief.inherit),
                seed=brief.seed,
                terms={**terms, **{name: float(values[k]) for name, values in metrics.items()}},
                validation_loss=loss,
                validation_accuracy=accuracy,
                status=status,
                note=note,
                multiply_adds=cost,
                worker=worker_name(),
                seconds=0.0,
                evidence=evidence,
                snapshot=None if snapshots is None or status == FAILURE else snapshots[k],
            )
        )
    return evaluations


def _take_snapshots(trained: Trained, epochs: int, histories: Sequence[list[Row]]) -> list[Snapshot]:
    for k, history in enumerate(histories):
        enter_costs(history, trained.epoch_costs[:, k].tolist())
    return take_snapshots(trained.population, trained.optimizer, epochs, histories)


def _measure_term(name: str, outcome: Outcome, job: Job) -> NDArray[np.float64]:
    """Returns a term's values [K].

    Raises:
        RunError: One of the user's own fails.
    """
    if name not in job.terms:
        return TERMS[name](outcome)
    expected = (outcome.population.size,)
    try:
        with noise(job.brief.seed, job.brief.epochs, job.problem.device):  # it may draw
            values = np.asarray(call_term(job.terms[name], outcome), np.float64)
        if values.shape != expected:
            raise RunError(f"it returned values of shape {values.shape}; expected {expected}, a number for each mask")
    except Exception as error:
        raise RunError(f"the fitness term {name!r} failed: {_reason(error)}") from error
    return values


def _status(problem: Problem, mask: Mask, values: Mapping[str, float], epochs: int) -> tuple[str, str]:
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        return FAILURE, "; ".join(wrong)
    chance = problem.chance_loss if epochs else None  # untrained networks are not expected to be better
    status = NO_BETTER_THAN_CHANCE if chance is not None and values["validation loss"] >= chance else OK
    return status, collapse_note(problem, mask)


def collapse_note(problem: Problem, mask: Mask) -> str:
    """Describes the layers and outputs that the mask cuts off; empty for none."""
    try:
        return str(mask.collapse(problem))
    except Exception as error:  # noqa: BLE001 - a module that the report cannot follow was trained all the same
        return f"{UNKNOWN_COLLAPSE}: {_reason(error)}"


def _reason(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})".replace("\n", " ")
