"""The run folder: settings, records, finished steps, result; written by the main process alone, and resumed from."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from torch import Tensor

from evoprune.engines.registry import arithmetic_difference
from evoprune.errors import InputError, InUseError
from evoprune.evaluation.evaluation import MACHINE_FAILURE, Evaluation
from evoprune.masks.mask import Mask
from evoprune.problem.identity import VERSION, differing
from evoprune.problem.problem import Problem
from evoprune.runs import records, sums
from evoprune.runs.checkpoints import Checkpoints, Content, Read
from evoprune.runs.config import SCHEMA, difference, read_config
from evoprune.runs.environment import environment
from evoprune.runs.evaluations import Evaluations
from evoprune.runs.folder import clear
from evoprune.runs.result import Result, write_result
from evoprune.runs.settings import DEVICE, flatten
from evoprune.system.files import drop_torn_line, remove_made, remove_temporaries, require_own

T = TypeVar("T")
# Choices of its beginning that a resumed run keeps.
KEPT = ("threads", "engine", "slots", "deterministic")


@dataclass
class Run:
    """A run folder, the :class:`evoprune.runs.journal.Journal` that is on disk.

    Nothing is written before it is entered as a context; then it is locked until the context ends.

    Attributes:
        folder: The folder.
        method: Name of the method.
        settings: All that decides the result, as JSON values; they are compared when a run is resumed.
        execution: Values that do not decide the result, or only in the last bits: threads, workers, paths.
        evaluations: Finished evaluations by mask hash.
        generations: The generation that each was done in.
        divisors: The fitness's divisors, once calibrated.
        identity: Digests that identify the problem, see :meth:`evoprune.problem.problem.Problem.identify`; None before it is
            known.
        problem_hash: The problem's hash.
        data_named_by: See :class:`evoprune.problem.problem.Problem`.
        precision: The recipe's; gradients by which weights are chosen are in full precision with any.
        device: The device on which networks are trained.
        force: Start over if the folder holds another run.
        retry_failed: See :meth:`plan`.
    """

    folder: Path
    method: str
    settings: Mapping[str, Any]
    execution: dict[str, Any]
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    divisors: dict[str, float] = field(default_factory=dict)
    identity: dict[str, str] | None = None
    problem_hash: str = ""
    data_named_by: dict[str, str] = field(default_factory=dict)
    precision: str = "full"
    device: str = "cpu"
    force: bool = False
    retry_failed: bool = False

    @classmethod
    def plan(
        cls,
        folder: str | os.PathLike[str],
        method: str,
        settings: Mapping[str, Any],
        execution: Mapping[str, Any] | None = None,
        force: bool = False,
        retry_failed: bool = False,
    ) -> Run:
        """Returns the run of a folder, new or to be resumed, without writing anything.

        A run that is resumed keeps its own number of threads and its engine.

        Args:
            folder: The folder; need not exist.
            method: Name of the method.
            settings: All that decides the result, as JSON values.
            execution: Values that do not decide it.
            force: Start over if the folder holds a run with other settings, or on another problem.
            retry_failed: Return to the state before the first mask that failed because of the machine, such as for lack of
                memory.

        Raises:
            InputError: The folder holds another run, or other files, or a link that leads out of it, or cannot be read.
        """
        run = cls(Path(folder).absolute(), method, json.loads(json.dumps(settings)), dict(execution or {}), force=force)
        run.retry_failed = retry_failed
        require_own(run.folder)
        before = read_config(run.folder)
        if before is None:
            if not force and run.folder.is_dir() and any(not path.name.startswith(".") for path in run.folder.iterdir()):
                raise InputError(f"{folder} holds files but no run; choose another --out, or --force to use it.")
            return run
        other = run._difference(before)
        if other and not force:
            raise InputError(f"{folder} holds another run: {other}. Choose another --out, or --force to start over.")
        if other:
            return run
        run.execution |= {key: value for key, value in before["execution"].items() if key in KEPT}
        run.divisors = before["divisors"]
        run.identity = before["identity"]
        run._warn_of_device(before["settings"])
        run.settings = before["settings"]
        return run

    def _difference(self, before: Mapping[str, Any]) -> str:
        """Returns in words how the run that was recorded differs from this one; empty for no difference."""
        other = difference(before, self.method, self.settings)
        if other or self.finished or "arithmetic" not in self.execution:
            return other
        recorded = before["execution"]
        return arithmetic_difference(
            recorded.get("engine", "auto"), recorded.get("arithmetic", {}), self.execution["arithmetic"]
        )

    def _warn_of_device(self, before: Mapping[str, Any]) -> None:
        was, now = (flatten(settings).get(DEVICE, "cpu") for settings in (before, self.settings))
        if was.partition(":")[0] != now.partition(":")[0] and not self.finished:
            warnings.warn(
                f"{self.folder} was begun on the device {was} and continues on {now}; its numbers may differ from those of a "
                f"run on one device.",
                stacklevel=4,
            )

    @property
    def finished(self) -> bool:
        """Whether ``result.json`` is there, which is written last."""
        return (self.folder / "result.json").exists()

    def of(self, problem: Problem, terms: Mapping[str, str] | None = None) -> Run:
        """Sets the problem that the run is about; to be called before the run is entered.

        Args:
            problem: The problem.
            terms: Digests that identify the user's own fitness terms.

        Raises:
            InputError: The run that is to be resumed was about another problem, for data, code or attributes have changed; or
                the problem cannot be identified.
        """
        now = {**problem.identify(), **(terms or {})}
        before = self.identity
        if before is not None and before != now and not self.force:
            raise InputError(
                f"{self.folder} was started on another problem; these have changed: {differing(before, now)}. Restore the "
                f"data, the code or the globals that it reads, choose another --out, or --force to start over."
            )
        self.identity, self.problem_hash, self.device = now, problem.hash, problem.device
        self.data_named_by, self.precision = problem.data_named_by, problem.recipe.precision
        return self

    def __enter__(self) -> Run:
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            require_own(self.folder)
            self._lock = FileLock(self.folder / ".lock")
            self._lock.acquire(timeout=0.2)  # evoprune list looks at it for a moment
        except Timeout as error:
            raise InUseError(f"{self.folder} is in use by another process; wait for it, or choose another --out.") from error
        except OSError as error:
            raise InputError(f"cannot write to {self.folder}: {error}; choose another --out.") from error
        remove_temporaries(self.folder)
        before = read_config(self.folder)
        other = before is None or bool(self._difference(before)) or before["identity"] != self.identity
        if other and before is not None and not self.force:
            self._lock.release()
            raise InputError(f"{self.folder} was taken by another run meanwhile; choose another --out.")
        if other:
            self.divisors = {}
            clear(self.folder)
        self._check_result()
        self._read_evaluations()
        if self.retry_failed:
            self._go_back()
        if not self.finished:
            self._save_config()
            self._save_environment(is_resumed=not other)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        has_begun = self.evaluations or self.checkpoint.exists() or self.finished
        is_to_go = error is not None and self._made and not has_begun
        if is_to_go:
            clear(self.folder)
        self._lock.release()
        if is_to_go:
            remove_made(self.folder, self._made)

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoints, from which the run is resumed."""
        return self.folder / "checkpoint"

    @property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.checkpoint)

    def step(self, name: str, compute: Callable[[], Content]) -> Content:
        """See :meth:`evoprune.runs.journal.Journal.step`."""
        return self._checkpoints.step(name, compute)

    def has_step(self, name: str) -> bool:
        """See :meth:`evoprune.runs.journal.Journal.has_step`."""
        return (self.checkpoint / f"{name}.json").exists()

    def record(self, gen: int, evaluations: Sequence[Evaluation]) -> None:
        """Appends evaluations to ``evaluations.csv``, those that it has not yet; evidence and rows are on disk on return."""
        self._checkpoints.save_findings(gen, {e.mask: (e.evidence, e.snapshot) for e in evaluations})
        new = [evaluation for evaluation in evaluations if evaluation.mask not in self.evaluations]
        self._rows.append(gen, new)
        self.evaluations |= {evaluation.mask: evaluation for evaluation in new}
        self.generations |= {evaluation.mask: gen for evaluation in new}

    def recorded(self, gen: int) -> dict[str, Evaluation]:
        """Returns the evaluations of a generation that are on disk, with their evidence, by mask hash."""
        found = {h: e for h, e in self.evaluations.items() if self.generations[h] == gen}
        findings = self._checkpoints.load_findings(gen) if found else {}
        each = {h: findings.get(h, (None, None)) for h in found}
        return {h: replace(e, evidence=each[h][0], snapshot=each[h][1]) for h, e in found.items()}

    def arrivals(self, gen: int) -> list[Evaluation]:
        """Returns the evaluations from a generation on, in the order in which they arrived, with their evidence."""
        gens = sorted({g for g in self.generations.values() if g >= gen})
        return [evaluation for g in gens for evaluation in self.recorded(g).values()]

    def evaluated(self) -> list[tuple[int, Evaluation]]:
        """Returns all evaluations that are on disk, each with its generation, in the order in which they were recorded."""
        return [(self.generations[mask], evaluation) for mask, evaluation in self.evaluations.items()]

    def known_before(self, gen: int) -> dict[str, Evaluation]:
        """Returns the evaluations of the generations before one, by mask hash."""
        return {h: e for h, e in self.evaluations.items() if self.generations[h] < gen}

    def calibrated(self, divisors: Mapping[str, float]) -> None:
        """Keeps the fitness's divisors."""
        if dict(divisors) != self.divisors:
            self.divisors = dict(divisors)
            self._save_config()

    def keep(self, name: str, make: Callable[[], int]) -> int:
        """Returns the run's own value of a number that depends on the machine: the first that was made."""
        if name not in self.execution:
            self.execution[name] = make()
            self._save_config()
        return int(self.execution[name])

    def keep_mask(self, mask: Mask) -> Path | None:
        """Writes a mask into the checkpoints, for the user, and returns the path."""
        path = self.checkpoint / f"{mask.hash}.npz"
        path.parent.mkdir(exist_ok=True)
        mask.save(path)
        return path

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a CSV table and its checksum; a finished run's stays as it is."""
        if not self.finished:
            sums.replace_files(self.folder, {name: records.csv_text(columns, rows).encode()})

    def save_state(self, gen: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """See :meth:`evoprune.runs.journal.Journal.save_state`."""
        self._checkpoints.save_state(gen, {**facts, "recorded": len(self.evaluations)}, tensors)

    def load_state(self, read: Read[T]) -> T | None:
        """See :meth:`evoprune.runs.journal.Journal.load_state`."""

        def read_if_recorded(facts: dict[str, Any], tensors: dict[str, Tensor]) -> T:
            if facts.pop("recorded", 0) > len(self.evaluations):
                raise ValueError("it comes after evaluations that evaluations.csv lacks")
            return read(facts, tensors)

        return self._checkpoints.load_state(read_if_recorded)

    def save(self, result: Result) -> None:
        """Writes the result, and so finishes the run; a finished run stays as it is."""
        if not self.finished:
            write_result(self.folder, result)

    def _save_config(self) -> None:
        config = {
            "schema": SCHEMA,
            "method": self.method,
            "settings": self.settings,
            "execution": self.execution,
            "divisors": self.divisors,
            "problem_hash": self.problem_hash,
            "identity_version": VERSION,
            "identity": self.identity,
            **({} if self.precision == "full" else {"gradients_of_choice": "full"}),
            **({"data_named_by": self.data_named_by} if self.data_named_by else {}),
        }
        sums.write_sealed(self.folder / "config.json", config)

    def _save_environment(self, is_resumed: bool) -> None:
        """Writes the environment of this session beside those of the earlier ones; warns if they had other versions."""
        path = self.folder / "environment.json"
        now = environment(self.device, self.execution)
        before = (self._earlier_environment(path) if is_resumed else None) or {}
        earlier = before.pop("earlier", [])
        if before and before != now:
            earlier = [*earlier, before]
        was, has = ({"python": e.get("python"), **(e.get("versions") or {})} for e in (before, now))
        other = [f"{name} {was[name]} then, {has.get(name)} now" for name in was if was[name] != has.get(name)]
        if before and other:
            warnings.warn(
                f"{self.folder} was begun with other versions: {', '.join(other)}. Its numbers may differ from those of a run "
                f"with one version of each; environment.json keeps both.",
                stacklevel=3,
            )
        sums.write_sealed(path, {**now, "earlier": earlier} if earlier else now)

    def _earlier_environment(self, path: Path) -> dict[str, Any] | None:
        try:
            return sums.read_sealed(path)
        except InputError as error:
            warnings.warn(f"{path} is damaged, and written anew without the earlier sessions ({error})", stacklevel=5)
            return None

    def _check_result(self) -> None:
        """Finishes a run anew if a file of its result differs from the one that was written."""
        if self.finished and (names := sums.damaged(self.folder)):
            warnings.warn(
                f"{', '.join(names)} in {self.folder} differs from what evoprune wrote; the run is finished anew from its "
                f"evaluations and checkpoints.",
                stacklevel=4,
            )
            (self.folder / "result.json").unlink()

    def _go_back(self) -> None:
        """Returns to the state before the first mask that failed because of the machine: all that came of it is done again."""
        failed = [mask for mask, evaluation in self.evaluations.items() if evaluation.status == MACHINE_FAILURE]
        if not failed:
            return
        (self.folder / "result.json").unlink(missing_ok=True)  # first: the run is no longer finished
        first = min(self.generations[mask] for mask in failed)
        self._checkpoints.drop_after(first)
        rows = [(self.generations[mask], evaluation) for mask, evaluation in self.evaluations.items()]
        kept = [row for row in rows if row[0] <= first and row[1].mask not in failed]
        if self.settings.get("steady_state"):  # a mask that was bred after it may come of it
            kept = list(itertools.takewhile(lambda row: row[1].mask not in failed, rows))
        self._rows.rewrite(kept)
        self._know(kept)
        if first == 0:
            self.divisors = {}  # of the whole first generation

    def _read_evaluations(self) -> None:
        path = self.folder / "evaluations.csv"
        drop_torn_line(path)
        self._rows = Evaluations.read(path)
        if self._rows.damage:
            warnings.warn(f"{self._rows.damage}; the evaluations from there on are made again.", stacklevel=4)
            (self.folder / "result.json").unlink(missing_ok=True)
            self._checkpoints.drop_after(max((gen for gen, _ in self._rows.rows), default=-1))
            self._rows.rewrite(self._rows.rows)
        self._know(self._rows.rows)

    def _know(self, rows: Sequence[tuple[int, Evaluation]]) -> None:
        self.evaluations = {evaluation.mask: evaluation for _, evaluation in rows}
        self.generations = {evaluation.mask: gen for gen, evaluation in rows}
