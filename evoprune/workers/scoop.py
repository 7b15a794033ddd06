"""Evaluation on SCOOP's workers."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from evoprune.errors import LostTaskError
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation, failed
from evoprune.evaluation.evaluator import Evaluator
from evoprune.evaluation.job import remember
from evoprune.workers.chunks import share_out
from evoprune.workers.launcher import under_own_launcher, under_scoop
from evoprune.workers.wire import evaluations_of, work

STOCK = (
    "SCOOP's own launcher listens on every network interface and runs what strangers send it, hangs when an idle worker dies, "
    "does long tasks twice, and ends with status 0 whatever happens; use: python -m evoprune.scoop -n N script.py ..."
)


def warn_of_stock_launcher() -> None:
    """Warns, once a process, where SCOOP's own launcher is used."""
    if under_scoop() and sys.modules["scoop"].IS_ORIGIN and not under_own_launcher():
        warnings.warn(STOCK, RuntimeWarning, stacklevel=1)


def count_on_scoop() -> int:
    """Returns how many of SCOOP's processes evaluate: under its own launcher the script's does, too."""
    import scoop as package

    return int(package.SIZE) - 1 if under_own_launcher() else int(package.SIZE)


def scoop(
    evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None, evaluation_timeout: float | None = None
) -> Iterator[list[Evaluation]]:
    """Evaluates on SCOOP's workers; see :class:`evoprune.evaluation.workers.Workers`.

    Where company changes no bit, chunks are split so that no worker idles while another has several masks left. A chunk that
    no worker can finish, or that comes back as rubbish, is evaluated mask by mask; a mask of which that holds, too, has failed.

    Args:
        evaluator: The evaluator.
        chunks: Its chunks.
        slots: Chunks that are under way at a time; None for all.
        evaluation_timeout: Seconds that a mask may take.

    Raises:
        WorkersError: A worker could not make the problem; the message has its traceback.
    """
    from scoop import futures

    key, brief = evaluator.key, asdict(evaluator.brief)
    remember(key, evaluator.problem)

    waiting: dict[Any, tuple[Chunk, int]] = {}  # masks, and the number of the chunk that they are of

    def submit(masks: Chunk, chunk: int, payload: bytes | None = None) -> Any:
        packed = [np.packbits(mask.bits).tobytes() for mask in masks]
        future = futures.submit(work, key, payload, brief, packed, evaluation_timeout)
        waiting[future] = masks, chunk
        return future

    workers = count_on_scoop()
    source = enumerate(chunks if slots is not None else share_out(evaluator, list(chunks), workers))
    left: Counter[int] = Counter()  # masks of each chunk that are still to come
    carrying: set[Any] = set()  # those that bring the problem, at most one for each worker
    held_back: list[tuple[Chunk, int]] = []
    for chunk, masks in islice(source, slots):
        left[chunk] = len(masks)
        submit(masks, chunk)
    while waiting:
        future, outcome, content = next_done(waiting)
        masks, chunk = waiting.pop(future)
        if outcome == "unknown problem":
            if len(carrying) < workers:
                carrying.add(submit(masks, chunk, evaluator.payload))
            else:
                held_back.append((masks, chunk))
            continue
        carrying.discard(future)
        while held_back:
            submit(*held_back.pop())
        try:
            evaluations = evaluations_of(outcome, content, masks)
        except LostTaskError as error:
            if len(masks) > 1:
                for mask in masks:
                    submit([mask], chunk)
                continue
            evaluations = [failed(masks[0], evaluator.brief.seed, str(error))]
        yield evaluations
        left[chunk] -= len(masks)
        if not left[chunk]:
            for another, masks in islice(source, 1):
                left[another] = len(masks)
                submit(masks, another)


def run_on_scoop(
    function: Callable[..., tuple[str, Any]], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, str, Any]]:
    """Runs a function with each of several arguments on SCOOP's workers.

    Args:
        function: Returns an outcome and content, and raises nothing.
        arguments: Its arguments, a tuple a task.

    Yields:
        Number of a task, its outcome and content, as they finish; ``lost`` and the reason where no worker could do it.
    """
    from scoop import futures

    waiting = {futures.submit(function, *each): i for i, each in enumerate(arguments)}
    while waiting:
        future, outcome, content = next_done(waiting)
        yield waiting.pop(future), outcome, content


def next_done(waiting: Collection[Any]) -> tuple[Any, str, Any]:
    """Waits for one of several of SCOOP's futures, and returns it with its outcome and content.

    Args:
        waiting: Futures of tasks that return an outcome and content, such as :func:`work`.

    Returns:
        What the task returned; ``lost`` and the reason where no worker could finish it.
    """
    from scoop import futures

    while True:
        try:
            future = next(iter(futures.as_completed(list(waiting))))
        except LostTaskError as error:
            lost = [future for future in waiting if future.exceptionValue is error]
            if lost:  # SCOOP raises it again for a future that is no longer waited for
                return lost[0], "lost", str(error)
        else:
            return future, *future.resultValue
