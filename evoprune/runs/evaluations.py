"""The file evaluations.csv: a row for each evaluation, appended as soon as it is finished, with a checksum."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.runs.records import cell_text, csv_text, number
from evoprune.runs.sums import CHECK, Chain, DamageError
from evoprune.system.files import append, drop_torn_line, read_bytes, write_atomically

_FIRST = ("gen", "mask", "seed")
_LAST = ("validation_loss", "validation_accuracy", "status", "note", "multiply_adds", "worker", "seconds", CHECK)


@dataclass
class Evaluations:
    """The rows of ``evaluations.csv`` that are as they were written.

    Attributes:
        path: The file.
        columns: Its columns; empty before the first row.
        rows: Each evaluation with its generation, in the order in which they were recorded.
        chain: The checksum of the last row.
        damage: The first damage, in words; the rows from there on are left out. Empty for none.
        size: Size of the file in bytes.
    """

    path: Path
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, Evaluation]] = field(default_factory=list)
    chain: Chain = field(default_factory=Chain)
    damage: str = ""
    size: int = 0

    @classmethod
    def read(cls, path: Path) -> Evaluations:
        """Reads the file; a last row that is still being written is left out.

        Raises:
            InputError: The file cannot be read.
        """
        found = cls(path)
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            return found
        except OSError as error:
            raise InputError(f"cannot read {path}: {error}; expected the records of a run.") from error
        found.size = content.rfind(b"\n") + 1
        text = content[: found.size].decode(errors="surrogateescape")
        try:
            for i, cells in enumerate(csv.reader(io.StringIO(text, newline=""))):
                if not found._take(cells):
                    found.damage = f"row {i} of {path} differs from the one that was written" if i else f"{path} has no header"
                    break
        except (csv.Error, ValueError) as error:
            found.damage = f"{path} cannot be read: {error}"
        return found

    def append(self, gen: int, evaluations: Sequence[Evaluation]) -> None:
        """Appends rows, all or none; they are on disk when this returns.

        The first evaluation decides the columns: those of the run's fitness terms among them.

        Raises:
            InputError: The file has other columns.
            OSError: There is no room for the rows, or the file cannot be written.
        """
        if not evaluations:
            return
        self._take_what_was_left()
        columns = self.columns or [*_FIRST, *evaluations[0].terms, *_LAST]
        if lacking := sorted({term for evaluation in evaluations for term in evaluation.terms} - set(columns)):
            raise InputError(f"{self.path} has no column for {', '.join(lacking)}; register the fitness terms as before.")
        chain = Chain(self.chain.last)
        rows = [_row(columns, gen, evaluation, chain) for evaluation in evaluations]
        append(self.path, csv_text(columns, rows, header=not self.columns).encode())
        self.columns, self.chain, self.size = columns, chain, self.path.stat().st_size
        self.rows += [(gen, evaluation) for evaluation in evaluations]

    def rewrite(self, rows: Iterable[tuple[int, Evaluation]]) -> None:
        """Writes the file anew with some of the rows, atomically."""
        self.rows, self.chain, self.damage = list(rows), Chain(), ""
        if not self.columns:
            self.path.unlink(missing_ok=True)
            return
        texts = [_row(self.columns, gen, evaluation, self.chain) for gen, evaluation in self.rows]
        content = csv_text(self.columns, texts).encode()
        write_atomically(self.path, content)
        self.size = len(content)

    def _take_what_was_left(self) -> None:
        """Takes rows of an earlier call that failed, and that could not be removed from a full disk."""
        drop_torn_line(self.path)  # rows must not run together
        if (self.path.stat().st_size if self.path.exists() else 0) != self.size:
            left = Evaluations.read(self.path)
            self.columns, self.rows, self.chain, self.size = left.columns, left.rows, left.chain, left.size

    def _take(self, cells: list[str]) -> bool:
        """Takes a line of the file, if it is as it was written."""
        if not self.columns:
            proper = cells[: len(_FIRST)] == list(_FIRST) and cells[-len(_LAST) :] == list(_LAST)
            self.columns = cells if proper else []
            return proper
        if len(cells) != len(self.columns) or cells[-1] != Chain(self.chain.last).next(cells[:-1]):
            return False
        self.chain.last = cells[-1]
        row = dict(zip(self.columns, cells, strict=True))
        self.rows.append((int(row["gen"]), _evaluation(row)))
        return True


def read_evaluations(folder: Path) -> list[tuple[int, Evaluation]]:
    """Reads ``evaluations.csv``: each evaluation with its generation; a last row that is still being written is left out.

    Raises:
        InputError: There is no such file, or a row differs from the one that was written.
    """
    path = folder / "evaluations.csv"
    found = Evaluations.read(path)
    if found.damage:
        raise DamageError(f"{found.damage}; the command of the run makes it again.")
    if not found.columns:
        raise InputError(f"there is no {path}, or it is empty; expected the records of a run.")
    return found.rows


def _row(columns: Sequence[str], gen: int, e: Evaluation, chain: Chain) -> dict[str, Any]:
    terms = {name: e.terms.get(name, math.nan) for name in columns[len(_FIRST) : -len(_LAST)]}
    row = {"gen": gen, "mask": e.mask, "seed": e.seed, **terms, **{name: getattr(e, name) for name in _LAST[:-1]}}
    return {**row, CHECK: chain.next([cell_text(row[name]) for name in columns[:-1]])}


def _evaluation(row: Mapping[str, str]) -> Evaluation:
    return Evaluation(
        mask=row["mask"],
        seed=int(row["seed"]),
        terms={name: number(cell) for name, cell in row.items() if name not in (*_FIRST, *_LAST)},
        validation_loss=number(row["validation_loss"]),
        validation_accuracy=number(row["validation_accuracy"]),
        status=row["status"],
        note=row["note"],
        multiply_adds=number(row["multiply_adds"]),
        worker=row["worker"],
        seconds=number(row["seconds"]),
    )
