"""Masks and evaluations as they cross the wire."""

from __future__ import annotations

import faulthandler
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np

from evoprune.errors import LostTaskError, WorkersError
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import STATUSES, Evaluation, key_of
from evoprune.evaluation.job import Job, recall
from evoprune.evaluation.terms import BUILT_IN_TERMS
from evoprune.masks.evidence import Evidence
from evoprune.masks.mask import Mask
from evoprune.masks.snapshot import Snapshot
from evoprune.training.threads import torch_threads
from evoprune.workers.base import Broken, Lost, Outcome
from evoprune.workers.launcher import under_own_launcher

NUMBERS = ("validation_loss", "validation_accuracy", "multiply_adds", "seconds")
# The answer of a worker that does not have the job.
UNKNOWN_JOB = "unknown job"


# A mask on the wire: its packed bits, and the snapshot that it continues from, if it inherits one. Snapshots are bytes: tensors
# that a pool passes on its own way hold a file descriptor each.
Packed: TypeAlias = tuple[bytes, bytes | None]


def pack_masks(masks: Chunk, inherit: bool = False) -> list[Packed]:
    """Returns each mask as plain values.

    Args:
        masks: The masks.
        inherit: With the snapshots that they continue from.
    """
    inherited = [_pack(mask.snapshot) if inherit and mask.parent else None for mask in masks]
    return [(np.packbits(mask.bits).tobytes(), packed) for mask, packed in zip(masks, inherited, strict=True)]


def work(key: str, payload: bytes | None, packed: list[Packed], seconds: float | None) -> list[dict[str, Any]] | str:
    """Evaluates a chunk in a worker; takes and returns plain values.

    Args:
        key: The job's key.
        payload: The job's payload, or None.
        packed: The masks, by :func:`pack_masks`.
        seconds: Time that it may take, the making of the job aside; None for no limit.

    Returns:
        Fields of each evaluation, or :data:`UNKNOWN_JOB`.

    Raises:
        InputError: The payload makes another job in this process.
    """
    with torch_threads(1):
        job = recall(key, payload)
    if job is None:
        return UNKNOWN_JOB
    masks = [_unpack(bits, snapshot, job) for bits, snapshot in packed]
    with _limit(seconds):
        evaluations = evaluate_chunk(job, masks)
    return [asdict(replace(e, snapshot=None)) | {"snapshot": _pack(e.snapshot)} for e in evaluations]


def evaluations_of(outcome: Outcome, masks: Chunk, job: Job) -> list[Evaluation]:
    """Returns the evaluations of a worker's answer.

    Args:
        outcome: The outcome of :func:`work`.
        masks: The masks that were to be evaluated.
        job: The job.

    Raises:
        LostTaskError: No worker could finish it, or it is rubbish.
        WorkersError: The worker could not make the job; the message has its traceback.
    """
    if isinstance(outcome, Broken):
        raise WorkersError(f"a worker could not evaluate:\n{outcome.traceback}")
    if isinstance(outcome, Lost):
        raise LostTaskError(outcome.reason)
    try:
        evaluations = [_evaluation(fields) for fields in outcome.value]
        if [evaluation.mask for evaluation in evaluations] != [key_of(mask, job.brief.inherit) for mask in masks]:
            raise ValueError("its evaluations are of other masks")
        for evaluation in evaluations:
            if evaluation.status not in STATUSES or set(evaluation.terms) != {*BUILT_IN_TERMS, *job.measured}:
                raise ValueError(f"an evaluation is {evaluation}")
            if job.brief.inherit and not evaluation.has_failed and evaluation.snapshot is None:
                raise ValueError("an evaluation has no snapshot")
            for number in (*evaluation.terms.values(), *(getattr(evaluation, name) for name in NUMBERS)):
                float(number)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LostTaskError(f"a worker returned rubbish: {error}".replace("\n", " ")) from error
    return evaluations


def _evaluation(fields: dict[str, Any]) -> Evaluation:
    evidence, snapshot = fields["evidence"], fields["snapshot"]
    apart = {
        "evidence": None if evidence is None else Evidence(**evidence),
        "snapshot": None if snapshot is None else Snapshot(**pickle.loads(snapshot)),  # noqa: S301 - from the run's own worker
    }
    return Evaluation(**fields | apart)


def _pack(snapshot: Snapshot | None) -> bytes | None:
    return None if snapshot is None else pickle.dumps(snapshot.fields)


def _unpack(bits: bytes, snapshot: bytes | None, job: Job) -> Mask:
    mask = Mask.from_packed(np.frombuffer(bits, np.uint8), job.problem.shapes)
    if snapshot is not None:
        mask.snapshot = Snapshot(**pickle.loads(snapshot))  # noqa: S301 - from the run's own main process
        mask.parent = mask.snapshot.digest
    return mask


@contextmanager
def _limit(seconds: float | None) -> Iterator[None]:
    """Ends this process, and shows where it hangs, unless the body is finished in time; None for no limit."""
    if seconds is None:
        yield
    elif under_own_launcher():  # which learns from the reply that it is finished
        from scoop import _control

        _control.execQueue.socket.limit(seconds)
        yield
    else:
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
