"""The file evaluations.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.terms import TERMS
from evoprune.runs.records import csv_text
from evoprune.system.files import append, drop_torn_line, read_bytes, write_atomically

_PLAIN_COLUMNS = ("validation_loss", "validation_accuracy", "status", "note", "multiply_adds", "worker", "seconds")


def read_evaluations(folder: Path) -> list[tuple[int, Evaluation]]:
    """Reads ``evaluations.csv``: each evaluation with its generation; a last row that is still being written is left out.

    Raises:
        InputError: There is no such file, or it has other columns.
    """
    path = folder / "evaluations.csv"
    try:
        content = read_bytes(path)
        complete = content[: content.rfind(b"\n") + 1].decode()
        return [_evaluation(row) for row in csv.DictReader(io.StringIO(complete, newline=""))]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error!r}; expected the records of a run of this version.") from error


def rewrite_evaluations(path: Path, rows: Iterable[tuple[int, Evaluation]]) -> None:
    """Writes ``evaluations.csv`` anew, atomically, each evaluation with its generation."""
    write_atomically(path, csv_text(_evaluation_columns(), [_evaluation_row(gen, e) for gen, e in rows]).encode())


def append_evaluations(path: Path, gen: int, evaluations: Iterable[Evaluation]) -> None:
    """Appends rows to ``evaluations.csv``, all or none; they are on disk when this returns.

    Raises:
        InputError: It has other columns.
        OSError: There is no room for them, or the file cannot be written.
    """
    columns, rows = _evaluation_columns(), [_evaluation_row(gen, e) for e in evaluations]
    drop_torn_line(path)  # rows must not run together
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        header = read_bytes(path).partition(b"\n")[0].decode(errors="replace").split(",")
        if header != columns:
            raise InputError(f"{path} has the columns {header}, now they are {columns}; register the fitness terms as before.")
    append(path, csv_text(columns, rows, header=new).encode())


def _evaluation_columns() -> list[str]:
    return ["gen", "mask", "seed", *TERMS, *_PLAIN_COLUMNS]


def _evaluation_row(gen: int, e: Evaluation) -> dict[str, Any]:
    return {
        "gen": gen,
        "mask": e.mask,
        "seed": e.seed,
        **dict.fromkeys(TERMS, math.nan),
        **e.terms,
        **{name: getattr(e, name) for name in _PLAIN_COLUMNS},
    }


def _evaluation(row: Mapping[str, str]) -> tuple[int, Evaluation]:
    def number(cell: str) -> float:
        return float(cell) if cell else math.nan

    terms = {name: number(row[name]) for name in row if name not in {"gen", "mask", "seed", *_PLAIN_COLUMNS}}
    evaluation = Evaluation(
        mask=row["mask"],
        seed=int(row["seed"]),
        terms=terms,
        validation_loss=number(row["validation_loss"]),
        validation_accuracy=number(row["validation_accuracy"]),
        status=row["status"],
        note=row["note"],
        multiply_adds=number(row["multiply_adds"]),
        worker=row["worker"],
        seconds=number(row["seconds"]),
    )
    return int(row["gen"]), evaluation
