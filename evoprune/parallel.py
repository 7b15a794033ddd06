"""The map: who evaluates the chunks of a population. Serially, or on SCOOP's workers.

What crosses the wire to a worker is the problem's hash, packed masks and the brief training; a worker that does not have the
problem says so and is sent it once.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evoprune.brief import BriefTraining, Chunk, Evaluation, evaluate_chunk, torch_threads
from evoprune.dissipation import Dissipation
from evoprune.errors import InputError, RunError
from evoprune.evaluate import Evaluator, Workers, recall, remember
from evoprune.mask import Mask
from evoprune.operators import Evidence

# A problem made of names pickles to a few hundred bytes, and is sent along; larger ones only on demand.
SMALL_PAYLOAD = 1000


def choose_workers(name: str = "auto") -> Workers:
    """Returns who evaluates.

    Args:
        name: ``serial``; ``scoop`` (the script must run under ``python -m scoop``); ``auto``: SCOOP where the script runs
            under it, else serial.

    Raises:
        InputError: An unknown name, or ``scoop`` where SCOOP does not run.
    """
    if name not in ("auto", "serial", "scoop"):
        raise InputError(f"workers are {name!r}; expected auto, serial or scoop.")
    running = under_scoop()
    if name == "scoop" and not running:
        raise InputError("workers are 'scoop', but SCOOP does not run; start with: python -m scoop -n 2 script.py ...")
    return scoop if running and name != "serial" else serial


def under_scoop() -> bool:
    """Tells whether this process was started by SCOOP."""
    module = sys.modules.get("scoop")
    return bool(module is not None and module.IS_RUNNING)


def serial(evaluator: Evaluator, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[Evaluation]]]:
    """Evaluates in this process."""
    for i, chunk in enumerate(chunks):
        yield i, evaluate_chunk(evaluator.problem, chunk, evaluator.brief)


def scoop(evaluator: Evaluator, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[Evaluation]]]:
    """Evaluates on SCOOP's workers, this process among them.

    Raises:
        RunError: A worker could not make the problem; the message has its traceback.
    """
    from scoop import futures

    problem_hash, brief = evaluator.problem.hash, asdict(evaluator.brief)
    remember(evaluator.problem)

    def submit(i: int, payload: bytes | None) -> Any:
        packed = [np.packbits(mask.bits).tobytes() for mask in chunks[i]]
        return futures.submit(work, problem_hash, payload, brief, packed)

    small = evaluator.payload if len(evaluator.payload) <= SMALL_PAYLOAD else None
    waiting = {submit(i, small): i for i in range(len(chunks))}
    while waiting:
        again: dict[Any, int] = {}
        for future in futures.as_completed(list(waiting)):
            i = waiting[future]
            outcome, content = future.result()
            if outcome == "ok":
                yield i, [_evaluation(fields) for fields in content]
            elif outcome == "unknown problem":
                again[submit(i, evaluator.payload)] = i
            else:
                raise RunError(f"a worker could not evaluate:\n{content}")
        waiting = again


def work(problem_hash: str, payload: bytes | None, brief: dict[str, Any], packed: list[bytes]) -> tuple[str, Any]:
    """Evaluates a chunk in a worker. Takes and returns plain values, and raises nothing: SCOOP would lose the traceback.

    Args:
        problem_hash: Hash of the problem.
        payload: The pickled problem, or None.
        brief: Fields of the :class:`~evoprune.evaluate.BriefTraining`.
        packed: Packed bits of each mask.

    Returns:
        ``("ok", fields of each evaluation)``, ``("unknown problem", None)``, or ``("error", traceback)``.
    """
    try:
        with torch_threads(brief["threads"]):
            problem = recall(problem_hash, payload)
            if problem is None:
                return "unknown problem", None
            masks = [_unpack(bits, problem.shapes, problem.prunable_count) for bits in packed]
            dissipation = None if brief["dissipation"] is None else Dissipation(**brief["dissipation"])
            how = BriefTraining(**brief | {"dissipation": dissipation})
            return "ok", [asdict(evaluation) for evaluation in evaluate_chunk(problem, masks, how)]
    except Exception:  # noqa: BLE001 - returned to the origin, which raises it
        return "error", traceback.format_exc()


def _evaluation(fields: dict[str, Any]) -> Evaluation:
    evidence = fields["evidence"]
    return Evaluation(**fields | {"evidence": None if evidence is None else Evidence(**evidence)})


def _unpack(bits: bytes, shapes: Any, n: int) -> Mask:
    return Mask(np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(bool), shapes)


class ChunkedMap:
    """A map for ``toolbox.map``: like the built-in one, and in chunks over the workers where the function evaluates masks.

    Args:
        workers: Who evaluates.
    """

    def __init__(self, workers: Workers = serial) -> None:
        self.workers = workers

    def __call__(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> list[Any]:
        """Returns ``list(map(function, *iterables))``."""
        evaluator = function
        while isinstance(evaluator, functools.partial):  # what toolbox.register makes of a function
            evaluator = evaluator.func
        if not isinstance(evaluator, Evaluator):
            return list(map(function, *iterables))
        (masks,) = iterables
        masks = list(masks)
        evaluations = evaluator.evaluate(masks, self.workers)
        for mask, evaluation in zip(masks, evaluations, strict=True):
            mask.evidence = evaluation.evidence
        return [evaluator.values(evaluation) for evaluation in evaluations]
