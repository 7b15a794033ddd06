"""The protocol of the workers that evaluate chunks of masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation

if TYPE_CHECKING:
    from evoprune.evaluation.evaluator import Evaluator


class Workers(Protocol):
    """Who evaluates; see :mod:`evoprune.workers.choose`."""

    def __call__(
        self, evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None
    ) -> Iterable[list[Evaluation]]:
        """Evaluates chunks.

        Args:
            evaluator: The evaluator.
            chunks: The chunks.
            slots: Take so many chunks at first, and another whenever one was evaluated and what was yielded for it was used.
                None: take all at once.

        Yields:
            Evaluations as they finish.
        """
