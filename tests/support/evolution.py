"""Evolutions, and folders of them that are written with numbers that one can compute by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import evoprune as ep
from evoprune.problem.identity import VERSION
from evoprune.runs import records, sums
from evoprune.runs.config import SCHEMA
from evoprune.search.evolution.state import State

GENERATIONS = ("gen", "nevals", "best", "min", "mean", "max", "std", "diversity", "chance_diversity", "seconds")
EVALUATIONS = (
    "gen", "mask", "seed", "magnitude", "gradient", "loss", "sparsity", "validation_loss", "validation_accuracy", "status",
    "note", "multiply_adds", "worker", "seconds",
)  # fmt: skip
LAYERS = ("gen", "layer", "size", "min", "mean", "max", "best")
BESTS = ("gen", "mask", "fitness", "validation_accuracy", "validation_loss")


def write_config(folder: Path, fitness: Sequence[str], **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"schema": SCHEMA, "execution": {}, "divisors": {}, "identity_version": VERSION, "identity": {}}
    sums.write_sealed(folder / "config.json", {**known, "method": "evolve", "settings": {"fitness": fitness}, **more})


def write_table(folder: Path, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    sums.replace_files(folder, {name: records.csv_text(columns, rows).encode()})


def write_result(folder: Path, facts: Mapping[str, Any]) -> None:
    sums.replace_files(folder, {"result.json": records.json_bytes(facts)})


def write_generations(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Each row has what it is about; the other columns are there and have numbers."""
    others = dict.fromkeys(GENERATIONS, 0.5)
    columns = [*GENERATIONS, *(name for name in rows[0] if name not in GENERATIONS)]
    write_table(folder, "generations.csv", columns, [{**others, "gen": i, **row} for i, row in enumerate(rows)])


def write_evaluations(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    others = {"gen": 0, "seed": 0, "status": "ok", "note": "", "worker": "w"}
    filled = [{**dict.fromkeys(EVALUATIONS, 1.0), "mask": f"m{i}", **others, **row} for i, row in enumerate(rows)]
    chain = sums.Chain()
    checked = [{**row, "check": chain.next([records.cell_text(row[name]) for name in EVALUATIONS])} for row in filled]
    write_table(folder, "evaluations.csv", (*EVALUATIONS, "check"), checked)


def write_layers(folder: Path, rows: Sequence[Sequence[Any]]) -> None:
    write_table(folder, "layers.csv", LAYERS, [dict(zip(LAYERS, row, strict=True)) for row in rows])


def write_bests(folder: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Rows of generation, mask, fitness, validation accuracy and loss."""
    filled = [dict(zip(BESTS, row, strict=True)) for row in rows]
    write_table(folder, "bests.csv", BESTS, filled)


SPARSITY = 0.8
SMALL = ep.Evolution(k=3, offspring=5, generations=4)


class Watch:
    """Keeps what it saw, and fails after a generation if asked to."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.fail_after, self.seen, self.populations = fail_after, [], []

    def on_generation(self, state: State) -> None:
        self.seen.append(state.logbook[-1]["gen"])
        self.populations.append(list(state.population))
        if self.seen[-1] == self.fail_after:
            raise RuntimeError("enough")


RISING = ep.Evolution(k=2, offspring=3, generations=4, first_sparsity=0.5, sparsify=2, drop="magnitude", among=1.2)
