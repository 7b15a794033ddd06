"""The protocol of a logger, and the events that it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deap import tools

from evoprune.evaluation.evaluation import Evaluation
from evoprune.runs.result import Result

# How a session ends.
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"
# The methods of a logger; it may lack some.
METHODS = ("on_start", "on_evaluation", "on_generation", "on_end")


@dataclass(frozen=True)
class Start:
    """The start of a run, or of a further session of it.

    Attributes:
        method: Name of the method.
        settings: All that decides the result, as JSON values; ``settings["problem"]`` describes the problem.
        execution: Values that do not decide it: workers, threads, engine.
        problem_hash: The problem's hash; empty where nothing is recorded.
        folder: The run folder; None if there is none.
        session: Number of the session of the run that this logger sees, from 1.
        id: The value that ``on_start`` returned in the session before; None if it returned none, or saw none.
    """

    method: str
    settings: Mapping[str, Any]
    execution: Mapping[str, Any]
    problem_hash: str = ""
    folder: Path | None = None
    session: int = 1
    id: str | None = None

    @property
    def name(self) -> str:
        """A name for the run: that of its folder, else method and data."""
        if self.folder is not None:
            return self.folder.name
        return f"{self.method}-{self.settings['problem']['data']}"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that was finished, and is on disk if there is a run folder.

    Attributes:
        number: Its number in the run, from 1.
        gen: Its generation.
        evaluation: The evaluation.
    """

    number: int
    gen: int
    evaluation: Evaluation


@dataclass(frozen=True)
class Generation:
    """A generation that was finished.

    Attributes:
        gen: The generation, from 0.
        evaluations: Evaluations in all generations so far.
        survivors: Survivors of the fittest mask so far.
        sparsity: Its sparsity.
        values: Numbers by name: ``fitness/min``, ``fitness/mean``, ``fitness/max``, ``diversity``, ``loss/mean`` and so on.
        logbook: DEAP's logbook; ``logbook[gen]`` is the generation's record. Do not change it.
    """

    gen: int
    evaluations: int
    survivors: int
    sparsity: float
    values: Mapping[str, float]
    logbook: tools.Logbook


@dataclass(frozen=True)
class End:
    """The end of a session.

    Attributes:
        status: ``finished``, ``interrupted`` (by Ctrl-C or SIGTERM; the run can be resumed), or ``failed``.
        error: The error that ended it, in one line; empty for none.
        result: The result; None unless the run is finished.
    """

    status: str
    error: str = ""
    result: Result | None = None


class Logger(Protocol):
    """A logger of a run. It may lack any of the methods; those that it has are called in the main process alone.

    An error that ``on_start`` raises refuses the run before the search starts. An error of another method is said once on
    standard error; the logger is called no more in this session, and the run continues.

    After a resume, evaluations and generations that were told before are not told again. A logger that is new to a run is
    told those of the earlier sessions first.
    """

    def on_start(self, start: Start) -> str | None:
        """Called before the search starts, or continues.

        Args:
            start: The run.

        Returns:
            A plain name by which the logger finds its record of this run after a resume, such as the id of a run at a
            service; it is kept in the run folder, and comes back as ``start.id``. None if it needs none.
        """

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Called after each evaluation of a mask."""

    def on_generation(self, generation: Generation) -> None:
        """Called after each generation."""

    def on_end(self, end: End) -> None:
        """Called at the end of every session that ``on_start`` began, also after an error and Ctrl-C: close files here."""
