"""CSV tables as data frames, and those of a comparison."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from evoprune.errors import InputError
from evoprune.runs.sums import require_intact
from evoprune.system.files import read_bytes

COLUMNS = (
    "method", "data", "model", "sparsity", "seed", "survivors", "test_accuracy", "search_epochs", "total_epochs",
    "multiply_adds", "seconds", "test_loss", "validation_accuracy", "validation_loss", "budget", "note",
)  # fmt: skip
# of the tables beside cells.csv
LAYERS = ("method", "data", "model", "sparsity", "seed", "budget", "layer", "survivors", "size")
OVERLAPS = ("data", "model", "sparsity", "seed", "a", "b", "iou", "expected")
MOVEMENT = (
    "method", "data", "model", "sparsity", "seed", "budget", "movement", "epoch", "low", "high", "kept", "removed", "cut",
)  # fmt: skip
TEXT = ("method", "data", "model", "note")


def read_frame(path: Path, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a CSV table of a run or a comparison.

    Args:
        path: The file.
        columns: The columns that it must have; others are kept.
        text: The columns among them that are text; the rest are numbers, NaN if empty or infinite.

    Raises:
        InputError: The file cannot be read, lacks columns, or holds text in a column of numbers.
    """
    try:
        content = io.BytesIO(read_bytes(path))
        frame = pd.read_csv(
            content, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""], float_precision="round_trip"
        )
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"cannot read {path}: {error}; expected a CSV table that evoprune wrote.") from error
    missing = [name for name in columns if name not in frame]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(columns)}.")
    for name in columns:
        if name in text:
            frame[name] = frame[name].fillna("")
            continue
        try:
            frame[name] = pd.to_numeric(frame[name]).astype(float).replace([math.inf, -math.inf], math.nan)
        except ValueError as error:
            raise InputError(f"{path}: column {name} holds {error}; expected numbers.") from error
    return frame


def read_table(path: Path, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a table of a comparison, after a look at its checksum; see :func:`read_frame`.

    Raises:
        InputError: The file differs from the one that was written, cannot be read, lacks columns, or holds other values.
    """
    if (path.parent / "compare.json").exists():  # else somebody made the table
        require_intact(path.parent, path.name)
    return read_frame(path, columns, text)


def read_cells(path: Path) -> pd.DataFrame:
    """Reads ``cells.csv``: a row for each method, data, model, sparsity, seed and budget.

    Raises:
        InputError: The file cannot be read, lacks columns, holds no row, or the same cell twice.
    """
    cells = read_table(path, COLUMNS, TEXT)
    if cells.empty:
        raise InputError(f"{path} holds no cell; run the comparison first.")
    key = ["method", "data", "model", "sparsity", "seed", "budget"]
    unkeyed = cells[cells[key[:-1]].isna().any(axis=1) | (cells[list(TEXT[:3])] == "").any(axis=1)]
    if not unkeyed.empty:
        raise InputError(f"{path}: row {unkeyed.index[0] + 2} has an empty {' or '.join(key[:-1])}; fill it in.")
    twice = cells[cells.duplicated(key)]
    if not twice.empty:
        raise InputError(f"{path} holds a cell twice: {twice.iloc[0][key].to_dict()}; remove one of the rows.")
    return cells
