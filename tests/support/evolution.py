"""Run folders of an evolution, written with numbers that one can compute by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.runs import records

GENERATIONS = ("gen", "nevals", "best", "min", "mean", "max", "std", "diversity", "chance_diversity", "seconds")
EVALUATIONS = (
    "gen", "mask", "seed", "magnitude", "gradient", "loss", "sparsity", "validation_loss", "validation_accuracy", "status",
    "note", "multiply_adds", "worker", "seconds",
)  # fmt: skip
LAYERS = ("gen", "layer", "size", "min", "mean", "max", "best")
BESTS = ("gen", "mask", "fitness", "validation_accuracy", "validation_loss")


def write_config(folder: Path, fitness: Sequence[str], **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    records.write_json(folder / "config.json", {"method": "evolve", "settings": {"fitness": fitness}, "divisors": {}, **more})


def write_generations(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Each row has what it is about; the other columns are there and have numbers."""
    others = dict.fromkeys(GENERATIONS, 0.5)
    columns = [*GENERATIONS, *(name for name in rows[0] if name not in GENERATIONS)]
    records.write_table(folder / "generations.csv", columns, [{**others, "gen": i, **row} for i, row in enumerate(rows)])


def write_evaluations(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    others = {"gen": 0, "seed": 0, "status": "ok", "note": "", "worker": "w"}
    filled = [{**dict.fromkeys(EVALUATIONS, 1.0), "mask": f"m{i}", **others, **row} for i, row in enumerate(rows)]
    records.write_table(folder / "evaluations.csv", EVALUATIONS, filled)


def write_layers(folder: Path, rows: Sequence[Sequence[Any]]) -> None:
    records.write_table(folder / "layers.csv", LAYERS, [dict(zip(LAYERS, row, strict=True)) for row in rows])


def write_bests(folder: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Rows of generation, mask, fitness, validation accuracy and loss."""
    filled = [dict(zip(BESTS, row, strict=True)) for row in rows]
    records.write_table(folder / "bests.csv", BESTS, filled)
