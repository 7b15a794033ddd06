"""Evaluation in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.evaluator import Evaluator


def serial(evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None) -> Iterator[list[Evaluation]]:
    """Evaluates in this process; see :class:`evoprune.evaluation.workers.Workers`."""
    source = iter(chunks)
    taken = deque(islice(source, slots))
    while taken:
        yield evaluate_chunk(evaluator.problem, taken.popleft(), evaluator.brief)
        taken.extend(islice(source, 1))
