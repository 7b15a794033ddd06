"""The journal of a search: finished steps and evaluations are recorded in it, and read back when the search is resumed.

A search writes to its journal without asking whether there is a folder: :class:`evoprune.runs.run.Run` is the journal on disk,
:class:`Memory` the one that records nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from evoprune.evaluation.evaluation import Evaluation
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs import records
from evoprune.runs.checkpoints import Content, Read
from evoprune.runs.result import Result
from evoprune.runs.run import Run

T = TypeVar("T")


class Journal(Protocol):
    """The journal of a search. Nothing is written before it is entered as a context."""

    @property
    def folder(self) -> Path | None:
        """The run folder; None if there is none."""

    @property
    def finished(self) -> bool:
        """Whether the result is recorded already."""

    @property
    def execution(self) -> Mapping[str, Any]:
        """Values that do not decide the result: threads, engine, workers. A resumed run has its own."""

    @property
    def divisors(self) -> Mapping[str, float]:
        """The fitness's divisors; empty before they are calibrated."""

    def of(self, problem: Problem, terms: Mapping[str, str] | None = None) -> Self:
        """Sets the problem that the search is about; to be called before the journal is entered.

        Args:
            problem: The problem.
            terms: Digests that identify the user's own fitness terms.

        Raises:
            InputError: The run that is to be resumed was about another problem, or the problem cannot be identified.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def step(self, name: str, compute: Callable[[], Content]) -> Content:
        """Returns the content of a step: read back if the step was finished before, else computed and recorded.

        Args:
            name: The step's name, unique in the run.
            compute: Does the step.

        Returns:
            JSON values, in which numbers that are not finite are None, and tensors.
        """

    def has_step(self, name: str) -> bool:
        """Tells whether a step is recorded; if it is damaged, :meth:`step` still makes it again."""

    def record(self, gen: int, evaluations: Sequence[Evaluation]) -> None:
        """Records evaluations of a generation, with their evidence; those that are recorded already stay as they are."""

    def recorded(self, gen: int) -> dict[str, Evaluation]:
        """Returns the recorded evaluations of a generation, with their evidence, by mask hash."""

    def arrivals(self, gen: int) -> list[Evaluation]:
        """Returns the recorded evaluations from a generation on, in the order in which they arrived, with their evidence."""

    def evaluated(self) -> list[tuple[int, Evaluation]]:
        """Returns all recorded evaluations, each with its generation, in the order in which they were recorded."""

    def known_before(self, gen: int) -> dict[str, Evaluation]:
        """Returns the recorded evaluations of the generations before one, by mask hash."""

    def calibrated(self, divisors: Mapping[str, float]) -> None:
        """Keeps the fitness's divisors."""

    def keep(self, name: str, make: Callable[[], int]) -> int:
        """Returns the run's own value of a number that depends on the machine: the first that was made."""

    def keep_mask(self, mask: Mask) -> Path | None:
        """Writes a mask for the user, such as one that could not be trained; returns the path, None if nothing is recorded."""

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a CSV table, unless the run is finished."""

    def save_state(self, gen: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Records the state of a search before a generation. The last two are kept.

        Args:
            gen: The generation that comes next.
            facts: JSON values.
            tensors: Tensors.
        """

    def load_state(self, read: Read[T]) -> T | None:
        """Returns the last recorded state that is not damaged; None if there is none.

        Args:
            read: Makes a state of the JSON values and tensors; a ValueError of it says that they are damaged.
        """

    def save(self, result: Result) -> None:
        """Records the result, and so finishes the run; a finished run stays as it is."""


@dataclass
class Memory:
    """The journal of a search without a folder: it records nothing.

    Attributes:
        execution: See :attr:`Journal.execution`.
        divisors: See :attr:`Journal.divisors`.
    """

    execution: Mapping[str, Any] = field(default_factory=dict)
    divisors: Mapping[str, float] = field(default_factory=dict)
    folder = None
    finished = False

    def of(self, problem: Problem, terms: Mapping[str, str] | None = None) -> Memory:
        """Does nothing, for nothing is resumed."""
        return self

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def step(self, name: str, compute: Callable[[], Content]) -> Content:
        """Returns the content of a step as a run would return it."""
        facts, tensors = compute()
        return records.as_json(facts), tensors

    def has_step(self, name: str) -> bool:
        """Returns False."""
        return False

    def record(self, gen: int, evaluations: Sequence[Evaluation]) -> None:
        """Records nothing."""

    def recorded(self, gen: int) -> dict[str, Evaluation]:
        """Returns no evaluations."""
        return {}

    def arrivals(self, gen: int) -> list[Evaluation]:
        """Returns no evaluations."""
        return []

    def evaluated(self) -> list[tuple[int, Evaluation]]:
        """Returns no evaluations."""
        return []

    def known_before(self, gen: int) -> dict[str, Evaluation]:
        """Returns no evaluations."""
        return {}

    def calibrated(self, divisors: Mapping[str, float]) -> None:
        """Keeps the fitness's divisors."""
        self.divisors = dict(divisors)

    def keep(self, name: str, make: Callable[[], int]) -> int:
        """Returns the value."""
        return make()

    def keep_mask(self, mask: Mask) -> None:
        """Writes nothing."""

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes nothing."""

    def save_state(self, gen: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Records nothing."""

    def load_state(self, read: Read[T]) -> T | None:
        """Returns None."""
        return None

    def save(self, result: Result) -> None:
        """Records nothing."""


class Place(Protocol):
    """The part of a search's execution that names its run folder."""

    @property
    def out(self) -> str | os.PathLike[str] | None:
        """The run folder; None records nothing."""

    @property
    def force(self) -> bool:
        """Start over if the folder holds another run."""

    @property
    def retry_failed(self) -> bool:
        """Return to the state before the first mask that failed because of the machine."""


def open_journal(place: Place, method: str, settings: Mapping[str, Any], execution: Mapping[str, Any]) -> Journal:
    """Returns the journal of a search, new or to be resumed; see :meth:`evoprune.runs.run.Run.plan`.

    Args:
        place: The run folder, and how it is treated.
        method: Name of the method.
        settings: All that decides the result, as JSON values.
        execution: Values that do not decide it.

    Raises:
        InputError: The folder holds another run, or other files, or a link that leads out of it, or cannot be read.
    """
    if place.out is None:
        return Memory(execution)
    return Run.plan(place.out, method, settings, execution, place.force, place.retry_failed)
