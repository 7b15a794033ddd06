"""Masks and evaluations as they cross the wire."""

from __future__ import annotations

import faulthandler
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from evoprune.errors import LostTaskError, WorkersError
from evoprune.evaluation.brief import BriefTraining, evaluate_chunk
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import STATUSES, Evaluation
from evoprune.evaluation.job import recall
from evoprune.evaluation.terms import TERMS
from evoprune.masks.evidence import Evidence
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.training.dissipation import Dissipation
from evoprune.training.threads import torch_threads
from evoprune.workers.launcher import under_own_launcher

NUMBERS = ("validation_loss", "validation_accuracy", "multiply_adds", "seconds")


def evaluations_of(outcome: str, content: Any, masks: Chunk) -> list[Evaluation]:
    """Returns the evaluations of what a worker returned.

    Args:
        outcome: See :func:`work`; ``lost`` where no worker could finish it.
        content: Likewise; the reason.
        masks: What was to be evaluated.

    Raises:
        LostTaskError: No worker could finish it, or it is rubbish.
        WorkersError: The worker could not make the problem; the message has its traceback.
    """
    if outcome == "error":
        raise WorkersError(f"a worker could not evaluate:\n{content}")
    if outcome != "ok":
        raise LostTaskError(content)
    try:
        evaluations = [_evaluation(fields) for fields in content]
        if [evaluation.mask for evaluation in evaluations] != [mask.hash for mask in masks]:
            raise ValueError("its evaluations are of other masks")
        for evaluation in evaluations:
            if evaluation.status not in STATUSES or set(evaluation.terms) != set(TERMS):
                raise ValueError(f"an evaluation is {evaluation}")
            for number in (*evaluation.terms.values(), *(getattr(evaluation, name) for name in NUMBERS)):
                float(number)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LostTaskError(f"a worker returned rubbish: {error}".replace("\n", " ")) from error
    return evaluations


def _evaluation(fields: dict[str, Any]) -> Evaluation:
    evidence = fields["evidence"]
    return Evaluation(**fields | {"evidence": None if evidence is None else Evidence(**evidence)})


def work(
    key: str, payload: bytes | None, brief: dict[str, Any], packed: list[bytes], evaluation_timeout: float | None
) -> tuple[str, Any]:
    """Evaluates a chunk in a worker. Takes and returns plain values, and raises nothing: SCOOP would lose the traceback.

    Args:
        key: What the problem is known by; see :attr:`evoprune.evaluation.evaluator.Evaluator.key`.
        payload: The evaluator's payload, or None.
        brief: Fields of the :class:`~evoprune.evaluation.evaluator.BriefTraining`.
        packed: Packed bits of each mask.
        evaluation_timeout: Seconds that a mask may take, the making of the problem aside; None for no limit.

    Returns:
        ``("ok", fields of each evaluation)``, ``("unknown problem", None)``, ``("lost", reason)`` where it wants to end
        the process, or ``("error", traceback)``.
    """
    try:
        with torch_threads(brief["threads"]):
            problem = recall(key, payload)
            if problem is None:
                return "unknown problem", None
            return "ok", evaluate_packed(problem, brief, packed, evaluation_timeout)
    except SystemExit as end:
        return "lost", ended(end)
    except Exception:  # noqa: BLE001 - returned to the origin, which raises it
        return "error", traceback.format_exc()


def ended(end: SystemExit) -> str:
    """Returns why a chunk is lost whose evaluation ends the process: alone, each of its masks shows whether it does."""
    return f"its evaluation ended the process: SystemExit({end.code})"


def evaluate_packed(
    problem: Problem, brief: dict[str, Any], packed: list[bytes], evaluation_timeout: float | None
) -> list[dict[str, Any]]:
    """Evaluates a chunk as it crosses the wire; see :func:`work`. Returns the fields of each evaluation."""
    masks = [_unpack(bits, problem.shapes, problem.prunable_count) for bits in packed]
    dissipation = None if brief["dissipation"] is None else Dissipation(**brief["dissipation"])
    how = BriefTraining(**brief | {"dissipation": dissipation})
    with limit(None if evaluation_timeout is None else evaluation_timeout * len(masks)):
        return [asdict(evaluation) for evaluation in evaluate_chunk(problem, masks, how)]


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Has this worker ended, and where it hangs shown, unless what is inside is finished in time; None for no limit."""
    if seconds is None:
        yield
    elif under_own_launcher():  # which is told by the reply when it is finished
        from scoop import _control

        _control.execQueue.socket.limit(seconds)
        yield
    else:
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _unpack(bits: bytes, shapes: Any, n: int) -> Mask:
    return Mask(np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(bool), shapes)
