"""CSV tables of runs, read for comparison."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evoprune.evaluation.evaluation import Evaluation
from evoprune.runs import records
from evoprune.runs.evaluations import Evaluations


def read_table(path: Path) -> list[dict[str, Any]]:
    """Numbers become floats, empty cells NaN, other text stays."""
    return [{key: number(value) for key, value in row.items()} for row in records.read_rows(path)]


def number(cell: str) -> Any:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return cell


def append_evaluations(path: Path, gen: int, evaluations: Sequence[Evaluation]) -> None:
    Evaluations.read(path).append(gen, evaluations)
