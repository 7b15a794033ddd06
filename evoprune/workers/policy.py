"""How workers are used, whatever they are: sharing out, sending the job, giving up, trying again. Written once.

A task that is lost tells nothing about its masks at first: its worker may have been killed from outside. So a chunk that is
lost, or comes back as rubbish, is evaluated mask by mask, and a mask that is lost once more alone. Only then has it failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from evoprune.errors import LostTaskError
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation, failed, key_of
from evoprune.evaluation.job import Job, remember
from evoprune.workers.base import Lost, Outcome, Returned, Workers
from evoprune.workers.chunks import share_out
from evoprune.workers.serial import Serial
from evoprune.workers.wire import UNKNOWN_JOB, evaluations_of, pack_masks, work

T = TypeVar("T")


def evaluate(workers: Workers, job: Job, chunks: Iterable[Chunk], slots: int | None = None) -> Iterator[list[Evaluation]]:
    """Evaluates chunks of masks on workers.

    If other masks in a chunk change no bit of a mask's result, chunks are split so that no worker idles while another has
    several masks left.

    Args:
        workers: The workers.
        job: The job.
        chunks: The chunks.
        slots: Take so many chunks at first, and another whenever one was evaluated and its evaluations were used. None: take
            all at once.

    Yields:
        Evaluations as they finish.

    Raises:
        InputError: The job cannot be sent.
        WorkersError: A worker could not make the job; the message has its traceback.
    """
    if isinstance(workers, Serial):
        yield from _evaluate_here(job, chunks, slots)
        return
    if slots is None:
        chunks = list(chunks)
        chunks = share_out(job, chunks, workers.count()) if chunks else []
    yield from _Evaluation(workers, job, slots).evaluate(chunks)


def run(workers: Workers, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Outcome]]:
    """Runs a function with each of several arguments on workers; a task that is lost is tried again alone, at the end.

    Args:
        workers: The workers.
        function: The function.
        arguments: Its arguments, a tuple a task.

    Yields:
        Number of a task and its outcome, as they finish.
    """
    lost = []
    for i, outcome in _finished(workers, {workers.submit(function, *each): i for i, each in enumerate(arguments)}):
        if isinstance(outcome, Lost):
            lost.append(i)
        else:
            yield i, outcome
    for i in lost:
        yield from _finished(workers, {workers.submit(function, *arguments[i]): i})


def _finished(workers: Workers, waiting: dict[Hashable, T]) -> Iterator[tuple[T, Outcome]]:
    """Yields the value of each ticket and the outcome of its task as they finish; tickets may be added meanwhile."""
    while waiting:
        ticket, outcome = workers.wait()
        if ticket in waiting:  # else it is of an evaluation that was left before its end
            yield waiting.pop(ticket), outcome


def _evaluate_here(job: Job, chunks: Iterable[Chunk], slots: int | None) -> Iterator[list[Evaluation]]:
    source = iter(chunks)
    taken = deque(islice(source, slots))
    while taken:
        yield evaluate_chunk(job, taken.popleft())
        taken.extend(islice(source, 1))


@dataclass
class _Piece:
    """Masks that are evaluated as one task.

    Attributes:
        masks: The masks.
        chunk: Number of the chunk that they are from.
        is_last_try: They were lost as a single mask before.
        carries: The task brings the job to a worker that lacks it.
    """

    masks: Chunk
    chunk: int
    is_last_try: bool = False
    carries: bool = False


class _Evaluation:
    """An evaluation of chunks on workers; see :func:`evaluate`."""

    def __init__(self, workers: Workers, job: Job, slots: int | None) -> None:
        self.workers, self.job, self.slots = workers, job, slots
        self.key, self.count = job.key, workers.count()
        self.timeout: float | None = getattr(workers, "evaluation_timeout", None)
        self.waiting: dict[Hashable, _Piece] = {}
        self.held_back: list[_Piece] = []  # until one more worker has the job
        self.suspects: deque[_Piece] = deque()  # single masks that were lost
        remember(self.key, job)  # workers may work in this process

    def evaluate(self, chunks: Iterable[Chunk]) -> Iterator[list[Evaluation]]:
        """Yields evaluations as they finish."""
        source = enumerate(chunks)
        left: Counter[int] = Counter()  # masks of each chunk that are still to come

        def take(count: int | None) -> None:
            for number, masks in islice(source, count):
                left[number] = len(masks)
                self.submit(_Piece(masks, number))

        take(self.slots)
        for piece, outcome in _finished(self.workers, self.waiting):
            evaluations = self.settle(piece, outcome)
            if evaluations:
                yield evaluations
                left[piece.chunk] -= len(evaluations)
                if not left[piece.chunk]:
                    take(1)
            if not self.waiting and self.suspects:
                self.submit(self.suspects.popleft())

    def submit(self, piece: _Piece) -> None:
        """Starts the task of a piece."""
        payload = self.job.payload if piece.carries else None
        seconds = None if self.timeout is None else self.timeout * len(piece.masks)
        self.waiting[self.workers.submit(work, self.key, payload, pack_masks(piece.masks, self.job.brief.inherit), seconds)] = (
            piece
        )

    def settle(self, piece: _Piece, outcome: Outcome) -> list[Evaluation]:
        """Returns the evaluations of a piece; none if it has to be tried again.

        Raises:
            WorkersError: The worker could not make the job.
        """
        if isinstance(outcome, Returned) and outcome.value == UNKNOWN_JOB:
            if sum(other.carries for other in self.waiting.values()) < self.count:  # at most one for each worker
                piece.carries = True
                self.submit(piece)
            else:
                self.held_back.append(piece)
            return []
        while self.held_back:
            self.submit(self.held_back.pop())
        try:
            return evaluations_of(outcome, piece.masks, self.job)
        except LostTaskError as error:
            return self.retry(piece, str(error))

    def retry(self, piece: _Piece, reason: str) -> list[Evaluation]:
        """Tries a lost piece again, mask by mask and then alone; or gives its mask up and returns its evaluation."""
        if piece.is_last_try:
            late = "" if self.timeout is None else f"; evaluation_timeout is {self.timeout:g} s"
            key = key_of(piece.masks[0], self.job.brief.inherit)
            return [failed(key, self.job.brief.seed, reason + late, own=self.job.measured)]
        for mask in piece.masks:
            single = _Piece([mask], piece.chunk, is_last_try=len(piece.masks) == 1)
            if single.is_last_try and self.slots is None:
                self.suspects.append(single)  # with nothing else under way, so that no other task is taken for its cause
            else:
                self.submit(single)
        return []
