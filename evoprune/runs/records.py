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

from evoprune.errors import InputError
from evoprune.system.files import read_bytes, write_atomically


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
    write_atomically(path, csv_text(columns, rows).encode())


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


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """Returns a table as CSV."""
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
