"""Files of a run: JSON and CSV tables, written atomically."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.system.files import read_bytes, write_atomically


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None if there is no such file.

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
        raise InputError(f"{path} holds no JSON object; expected a file of evoprune; remove it, or choose another --out.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON atomically; numbers that are not finite become null."""
    write_atomically(path, json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Returns the content of a JSON file; numbers that are not finite become null."""
    return (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode()


def as_json(content: Mapping[str, Any], name_of: Callable[[object], str] | None = None) -> dict[str, Any]:
    """Returns values as they come back from a JSON file; numbers that are not finite become None.

    Args:
        content: The values.
        name_of: Returns a name for a value that JSON does not know, such as a function. None refuses such values.
    """
    found: dict[str, Any] = json.loads(json.dumps(_finite(content), allow_nan=False, default=name_of))
    return found


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turns the errors that foreign content raises into one that names the file or folder.

    Raises:
        InputError: Something is missing there, or is of another kind.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} has other content than evoprune wrote ({error!r}); remove it, or choose another --out."
        ) from error


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV table atomically; numbers that are not finite become empty."""
    write_atomically(path, csv_text(columns, rows).encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads a CSV table as text; a last row that is still being written is left out.

    Raises:
        InputError: There is no such file, or a row has another number of cells than the header.
    """
    try:
        content = read_bytes(path)
        complete = content[: content.rfind(b"\n") + 1].decode()
        rows = list(csv.DictReader(io.StringIO(complete, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; expected the folder of a run.") from error
    for i, row in enumerate(rows):
        if None in row or None in row.values():
            raise InputError(f"cannot read {path}: row {i + 1} has another number of cells than the header; restore the file.")
    return rows


def number(cell: str) -> float:
    """Returns the number in a cell of a CSV table; NaN if it is empty."""
    return float(cell) if cell else math.nan


def cell_text(value: Any) -> str:
    """Returns a value as the text of a cell; empty for a number that is not finite."""
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else ""
    return "" if value is None else str(value)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """Returns a table as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({key: cell_text(row[key]) for key in columns} for row in rows)
    return buffer.getvalue()


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content
