"""Files of a run: JSON, CSV tables and safetensors, written atomically and read without pickle."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from evoprune.brief import Evaluation
from evoprune.errors import InputError
from evoprune.files import append, drop_torn_line, read_bytes, write_atomically
from evoprune.fitness import TERMS

_PLAIN_COLUMNS = ("validation_loss", "validation_accuracy", "status", "note", "multiply_adds", "worker", "seconds")


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None where there is no such file.

    Raises:
        InputError: The file cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}; remove it, or choose another --out.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; expected what evoprune wrote; remove it.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON atomically; numbers that are not finite become null."""
    write_atomically(path, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes safetensors atomically; tied tensors are written out."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, to_bytes(plain))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads safetensors.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return from_bytes(read_bytes(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}; remove {path.with_suffix('.json')}, and it is made again.") from error


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turns the errors that come of content which evoprune did not write into one that names the file or folder.

    Raises:
        InputError: Something is missing there, or is of another kind.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} does not hold what evoprune wrote ({error!r}); remove it, or choose another --out."
        ) from error


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV table atomically; numbers that are not finite become empty."""
    write_atomically(path, _csv_text(columns, rows).encode())


def read_table(path: Path) -> list[dict[str, Any]]:
    """Reads a CSV table; numbers become floats, empty cells NaN, other text stays.

    Raises:
        InputError: There is no such file.
    """
    try:
        text = read_bytes(path).decode()
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; expected the folder of a run.") from error


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
    write_atomically(path, _csv_text(_evaluation_columns(), [_evaluation_row(gen, e) for gen, e in rows]).encode())


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
    append(path, _csv_text(columns, rows, header=new).encode())


def _evaluation_columns() -> list[str]:
    return ["gen", "mask", "seed", *TERMS, *_PLAIN_COLUMNS]


def _evaluation_row(gen: int, e: Evaluation) -> dict[str, Any]:
    return {"gen": gen, "mask": e.mask, "seed": e.seed, **e.terms, **{name: getattr(e, name) for name in _PLAIN_COLUMNS}}


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


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else ""
    return value


def _number(cell: str) -> Any:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return cell


def _csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({key: _cell(row[key]) for key in columns} for row in rows)
    return buffer.getvalue()


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content
