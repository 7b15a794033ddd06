"""What a worker does with a chunk of masks as it crosses the wire, and what SCOOP has to do with this process."""

from __future__ import annotations

import faulthandler
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from evoprune.brief import BriefTraining, evaluate_chunk, torch_threads
from evoprune.dissipation import Dissipation
from evoprune.evaluate import recall
from evoprune.mask import Mask
from evoprune.problem import Problem


def under_scoop() -> bool:
    """Tells whether this process was started by SCOOP, by whichever launcher."""
    module = sys.modules.get("scoop")
    return bool(module is not None and module.IS_RUNNING)


def under_own_launcher() -> bool:
    """Tells whether this process was started by ``python -m evoprune.scoop``."""
    return under_scoop() and "evoprune.scoop.patches" in sys.modules


def work(
    key: str, payload: bytes | None, brief: dict[str, Any], packed: list[bytes], evaluation_timeout: float | None
) -> tuple[str, Any]:
    """Evaluates a chunk in a worker. Takes and returns plain values, and raises nothing: SCOOP would lose the traceback.

    Args:
        key: What the problem is known by; see :attr:`evoprune.evaluate.Evaluator.key`.
        payload: The evaluator's payload, or None.
        brief: Fields of the :class:`~evoprune.evaluate.BriefTraining`.
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
