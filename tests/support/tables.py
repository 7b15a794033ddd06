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


def evaluations(first: int) -> list[Evaluation]:
    terms = {"magnitude": 1.0, "gradient": 1.0, "loss": -1.0, "sparsity": 0.9}
    return [Evaluation(f"{i:064x}", 1, terms, 1.0, 0.5, "ok", "", 1e6, "host:1", 0.1) for i in range(first, first + 8)]
