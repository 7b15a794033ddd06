"""The file evaluations.csv: a row for each evaluation, appended as soon as it is finished."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.runs.records import csv_text, number, read_rows
from evoprune.system.files import append, drop_torn_line, read_bytes, write_atomically

_FIRST = ("gen", "mask", "seed")
_LAST = ("validation_loss", "validation_accuracy", "status", "note", "multiply_adds", "worker", "seconds")


def read_evaluations(folder: Path) -> list[tuple[int, Evaluation]]:
    """Reads ``evaluations.csv``: each evaluation with its generation; a last row that is still being written is left out.

    Raises:
        InputError: There is no such file, or it has other columns.
    """
    path = folder / "evaluations.csv"
    try:
        return [(int(row["gen"]), _evaluation(row)) for row in read_rows(path)]
    except (KeyError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error!r}; expected the records of a run of this version.") from error


def rewrite_evaluations(path: Path, rows: Iterable[tuple[int, Evaluation]]) -> None:
    """Writes ``evaluations.csv`` anew with its own columns, atomically, each evaluation with its generation."""
    columns = _read_columns(path)
    write_atomically(path, csv_text(columns, [_row(columns, gen, evaluation) for gen, evaluation in rows]).encode())


def append_evaluations(path: Path, gen: int, evaluations: Sequence[Evaluation]) -> None:
    """Appends rows to ``evaluations.csv``, all or none; they are on disk when this returns.

    The file's first evaluation decides its columns: those of the run's fitness terms among them.

    Raises:
        InputError: The file has other columns.
        OSError: There is no room for the rows, or the file cannot be written.
    """
    if not evaluations:
        return
    drop_torn_line(path)  # rows must not run together
    new = not path.exists() or path.stat().st_size == 0
    columns = [*_FIRST, *evaluations[0].terms, *_LAST] if new else _read_columns(path)
    if lacking := sorted({term for evaluation in evaluations for term in evaluation.terms} - set(columns)):
        raise InputError(f"{path} has no column for {', '.join(lacking)}; register the fitness terms as before.")
    append(path, csv_text(columns, [_row(columns, gen, evaluation) for evaluation in evaluations], header=new).encode())


def _read_columns(path: Path) -> list[str]:
    columns = next(csv.reader([read_bytes(path).partition(b"\n")[0].decode(errors="replace")]))
    if columns[: len(_FIRST)] != list(_FIRST) or columns[-len(_LAST) :] != list(_LAST):
        raise InputError(f"{path} has the columns {columns}; expected the records of a run of this version.")
    return columns


def _row(columns: Sequence[str], gen: int, e: Evaluation) -> dict[str, Any]:
    terms = {name: e.terms.get(name, math.nan) for name in columns[len(_FIRST) : -len(_LAST)]}
    return {"gen": gen, "mask": e.mask, "seed": e.seed, **terms, **{name: getattr(e, name) for name in _LAST}}


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
