"""The protocol of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.evaluator import Evaluator

# Runs a function with each of several arguments; see :func:`run_on_scoop`.
RunTasks: TypeAlias = Callable[[Callable[..., tuple[str, Any]], Sequence[tuple[Any, ...]]], Iterator[tuple[int, str, Any]]]


@runtime_checkable
class Cluster(Protocol):
    """Workers that also do whole tasks, such as :class:`evoprune.workers.dask.DaskWorkers`."""

    def __call__(
        self, evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None
    ) -> Iterable[list[Evaluation]]:
        """Evaluates chunks; see :class:`evoprune.evaluation.workers.Workers`."""

    def count(self) -> int:
        """Returns the number of workers."""

    def run(
        self, function: Callable[..., tuple[str, Any]], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, str, Any]]:
        """Runs tasks; see :func:`run_on_scoop`."""

    def close(self) -> object:
        """Leaves the cluster."""
