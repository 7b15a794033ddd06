"""The loggers of a run: each is told the events that it was not told before, and none that fails ends the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deap import tools
from tqdm import tqdm

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.loggers.protocol import FAILED, FINISHED, INTERRUPTED, End, Evaluated, Start
from evoprune.loggers.values import generation_of
from evoprune.runs import records, sums
from evoprune.runs.folder import LOGGERS_FILE
from evoprune.runs.journal import Journal
from evoprune.runs.result import Result
from evoprune.system.files import plain_name
from evoprune.system.streams import printable


@dataclass
class Told:
    """The events that a logger was told; kept in the run folder, so that a further session tells it the others.

    Attributes:
        sessions: Sessions that it has seen.
        evaluations: Evaluations that it was told, the first ones of the run.
        generations: Generations that it was told.
        has_ended: It was told the result.
        id: The name by which it finds its record of the run; None if it needs none.
    """

    sessions: int = 0
    evaluations: int = 0
    generations: int = 0
    has_ended: bool = False
    id: str | None = None


@dataclass
class Loggers:
    """The loggers of a run, in the main process.

    Attributes:
        loggers: The loggers by name.
        told: The events that each was told.
    """

    loggers: Mapping[str, Any] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    _before: dict[str, Told] = field(default_factory=dict)
    _active: list[str] = field(default_factory=list)
    _rows: list[tuple[int, Evaluation]] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _folder: Path | None = None
    _end: End = field(default_factory=lambda: End(INTERRUPTED))

    @contextmanager
    def running(self, start: Start, journal: Journal) -> Iterator[None]:
        """Tells the loggers of the start of a session, of earlier events that are new to them, and at last of its end.

        Args:
            start: The run.
            journal: Its journal, which was entered.

        Raises:
            InputError: A logger cannot begin, or the record of the loggers in the run folder is damaged.
        """
        if not self.loggers:
            yield
            return
        self._folder, self._rows = start.folder, journal.evaluated()
        self._seen = {evaluation.mask for _, evaluation in self._rows}
        self._read(journal.finished)
        try:
            for name in self.loggers:
                if not self.told[name].has_ended:
                    self._begin(name, start)
            self._tell_evaluations()
            yield
        except KeyboardInterrupt:
            self._end = End(INTERRUPTED)
            raise
        except BaseException as error:
            self._end = End(FAILED, " ".join(f"{type(error).__name__}: {error}".split()))
            raise
        finally:
            self._tell("on_end", self._end)
            for name in self._active:
                self.told[name].has_ended = self._end.status == FINISHED
            self._write()

    def evaluated(self, gen: int, evaluations: Sequence[Evaluation]) -> None:
        """Tells of evaluations that were recorded; those that were known before are left out."""
        if not self._active:
            return
        new = {evaluation.mask: evaluation for evaluation in evaluations if evaluation.mask not in self._seen}
        self._seen |= set(new)
        self._rows += [(gen, replace(evaluation, evidence=None, snapshot=None)) for evaluation in new.values()]
        self._tell_evaluations()

    def generation(self, logbook: tools.Logbook, weights: int) -> None:
        """Tells of the generations of a logbook.

        Args:
            logbook: The logbook so far.
            weights: Number of prunable weights.
        """
        new = {name: range(self.told[name].generations, len(logbook)) for name in self._active}
        for name, gens in new.items():
            for i in gens:
                if self._call(name, "on_generation", generation_of(logbook, i, weights)):
                    self.told[name].generations = i + 1
        if any(new.values()):
            self._write()

    def finish(self, result: Result | None) -> None:
        """Takes the result, of which the loggers are told at the end of the session."""
        self._end = End(FINISHED, result=result)

    def _begin(self, name: str, start: Start) -> None:
        told, begin = self.told[name], getattr(self.loggers[name], "on_start", None)
        told.sessions += 1
        try:
            found = None if begin is None else begin(replace(start, session=told.sessions, id=told.id))
        except InputError:
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"the logger {name} cannot begin: {text}; correct it, or leave it out.") from error
        told.id = None if found is None else plain_name(found, f"the logger {name}")
        self._active.append(name)

    def _tell_evaluations(self) -> None:
        told_any = False
        for name in list(self._active):
            told = self.told[name]
            while told.evaluations < len(self._rows):
                event = Evaluated(told.evaluations + 1, *self._rows[told.evaluations])
                if not self._call(name, "on_evaluation", event):
                    break
                told.evaluations, told_any = event.number, True
        if told_any:
            self._write()

    def _tell(self, method: str, event: object) -> None:
        for name in list(self._active):
            self._call(name, method, event)

    def _call(self, name: str, method: str, event: object) -> bool:
        """Calls a method of a logger, if it has it; one that fails is called no more. Returns whether it did not fail."""
        if name not in self._active:
            return False
        call: Callable[[object], object] | None = getattr(self.loggers[name], method, None)
        try:
            if call is not None:
                call(event)
        except Exception as error:  # noqa: BLE001 - the run is worth more than its log
            self._active.remove(name)
            text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            _say(f"the logger {name} failed in {method}: {text}; it is called no more, and the run continues")
            return False
        return True

    def _read(self, finished: bool) -> None:
        """Reads the events that the loggers were told in earlier sessions.

        Raises:
            InputError: The record is damaged.
        """
        self.told = {name: Told() for name in self.loggers}
        if self._folder is None:
            return
        path = self._folder / LOGGERS_FILE
        with records.as_written(path):
            before = (sums.read_sealed(path) or {"loggers": {}})["loggers"]
            self._before = {name: Told(**facts) for name, facts in before.items()}
        for name in self.loggers:
            told = self._before.get(name, Told())
            if told.id is not None:
                plain_name(told.id, str(path))
            if told.evaluations > len(self._rows):  # the run has gone back, to evaluate masks again
                told.evaluations = len(self._rows)
                told.generations = min(told.generations, max((gen for gen, _ in self._rows), default=0))
            told.has_ended = told.has_ended and finished
            self.told[name] = told

    def _write(self) -> None:
        if self._folder is None:
            return
        everything = {**self._before, **self.told}
        try:
            sums.write_sealed(self._folder / LOGGERS_FILE, {"loggers": {name: asdict(t) for name, t in everything.items()}})
        except OSError as error:
            _say(f"cannot write {self._folder / LOGGERS_FILE}: {error}; after a resume, loggers may be told events again")


def _say(text: str) -> None:
    with suppress(OSError):  # nobody may read it
        tqdm.write(f"warning: {printable(text)}", file=sys.stderr)
