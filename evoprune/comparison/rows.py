"""The rows that a finished cell adds to the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from evoprune.comparison import methods
from evoprune.comparison.cells import Cell
from evoprune.comparison.frames import COLUMNS, LAYERS, MOVEMENT, OVERLAPS, read_table
from evoprune.comparison.methods import split_control
from evoprune.masks.mask import Mask
from evoprune.masks.overlap import expected_iou
from evoprune.problem.metrics import column
from evoprune.runs import records, sums
from evoprune.runs.config import read_config
from evoprune.training.dissipation import EDGES

# cells.csv is written last, since it tells which cells are finished.
TABLES: dict[str, Sequence[str]] = {
    "layers.csv": LAYERS,
    "overlaps.csv": OVERLAPS,
    "movement.csv": MOVEMENT,
    "cells.csv": COLUMNS,
}
KEYS = ("method", "data", "model", "sparsity", "seed", "budget", "layer", "a", "b", "epoch", "low")
Row = Mapping[str, Any]


def finished(folder: Path) -> set[tuple[Any, ...]]:
    """Returns the keys of the cells that ``cells.csv`` has."""
    with records.as_written(folder / "cells.csv"):
        return {row_keys(row) for row in read_rows(folder / "cells.csv")}


def row_keys(row: Row) -> tuple[Any, ...]:
    """Returns the values that identify a row's cell."""
    budget = float(row["budget"]) if row["budget"] else None
    return (row["method"], row["data"], row["model"], float(row["sparsity"]), int(row["seed"]), budget)


def add_rows(folder: Path, cell: Cell, runs: Path, reason: str = "") -> None:
    """Adds a cell's rows to the tables; several processes may do so.

    Raises:
        DamageError: A file of the cell's run folder differs from the one that was written.
    """
    if not reason:
        sums.require_intact(runs / cell.folder)
    made: dict[str, list[Row]] = {"cells.csv": [cell_row(cell, runs, reason)]}
    if not reason:
        made |= {
            "layers.csv": layer_rows(cell, runs),
            "overlaps.csv": overlap_rows(cell, runs),
            "movement.csv": movement_rows(cell, runs),
        }
    contents: dict[str, bytes] = {}
    with FileLock(folder / ".lock"):
        for name, columns in TABLES.items():
            if rows := made.get(name):
                new = {_identity(row) for row in rows}  # rows that a killed process left are replaced
                every = [*(row for row in read_rows(folder / name) if _identity(row) not in new), *rows]
                kept = _of_least_seed(every) if name == "movement.csv" else every
                more = [column for column in dict.fromkeys(key for row in every for key in row) if column not in columns]
                full = [{**dict.fromkeys(more, ""), **row} for row in kept]  # a cell that failed has no metrics
                contents[name] = records.csv_text([*columns, *more], full).encode()
        sums.replace_files(folder, contents)


def _of_least_seed(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the least seed of each kind of cell: a figure shows one, and the file stays small."""
    least: dict[tuple[str, ...], int] = {}
    kinds = [tuple(str(row[name]) for name in ("method", "data", "model", "sparsity", "budget")) for row in rows]
    for kind, row in zip(kinds, rows, strict=True):
        least[kind] = min(int(row["seed"]), least.get(kind, int(row["seed"])))
    return [row for kind, row in zip(kinds, rows, strict=True) if int(row["seed"]) == least[kind]]


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEYS if name in row)


def cell_row(cell: Cell, runs: Path, reason: str = "") -> Row:
    """Returns the cell's row of ``cells.csv``, with the metrics on the test set; a failed one has its reason instead."""
    result = records.read_json(runs / cell.folder / "result.json")
    if reason or result is None:
        return {**dict.fromkeys(COLUMNS, ""), **_keys(cell), "note": reason or "no result"}
    config = read_config(runs / cell.folder) or {"settings": {}}
    metrics = [column(name, "test") for name in config["settings"].get("problem", {}).get("metrics", ())]
    values = {name: "" if result.get(name) is None else result[name] for name in (*COLUMNS, *metrics)}
    return values | _keys(cell) | {"note": ", and ".join(filter(None, (result["collapse"], _chance(result))))}


def _chance(result: Mapping[str, Any]) -> str:
    return "no better than chance" if result.get("better_than_chance") is False else ""


def layer_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the survivors of each layer; no rows for the dense network, which keeps every weight."""
    if cell.base == "dense":
        return []
    result = records.read_json(runs / cell.folder / "result.json") or {}
    return [{**_keys(cell), "layer": name, "survivors": kept, "size": size} for name, (kept, size) in result["layers"].items()]


def overlap_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the overlap with the mask of each other method that is finished, beside the overlap expected by chance.

    Only methods of the main table have rows. Controls have none, since they have their method's mask, and the dense network
    has none, since it overlaps with every mask.
    """
    others = [path for path in runs.glob("*/mask.npz") if path.parent.name != cell.folder]
    if cell.budget is not None or cell.method == "dense" or split_control(cell.method)[1] is not None:
        return []
    mask = Mask.load(runs / cell.folder / "mask.npz")
    rows: list[Row] = []
    for path in others:
        method = path.parent.name.removesuffix(cell.folder.removeprefix(cell.method))
        if method not in methods.names() or replace(cell, method=method).folder != path.parent.name:
            continue
        other = Mask.load(path)
        own, theirs = ([int(layer.sum()) for layer in m.layers.values()] for m in (mask, other))
        sizes = [layer.size for layer in mask.layers.values()]
        (a, b), keys = (
            sorted((cell.method, method)),
            {name: _keys(cell)[name] for name in ("data", "model", "sparsity", "seed")},
        )
        rows.append({**keys, "a": a, "b": b, "iou": mask.iou(other), "expected": expected_iou(own, theirs, sizes)})
    return rows


def movement_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the histogram of movement at each removal, with its cut; :func:`add_rows` keeps those of the least seed."""
    config = read_config(runs / cell.folder) or {"settings": {}}
    settings = config["settings"].get("dissipation", config["settings"])
    removals = (records.read_json(runs / cell.folder / "removals.json") or {}).get("winner", [])
    removals = [removal for removal in removals if "kept" in removal]  # other schedules log other changes
    return [
        {
            **_keys(cell), "movement": settings["movement"], "epoch": removal["epoch"], "low": low, "high": high, "kept": kept,
            "removed": removed, "cut": np.log10(removal["threshold"]) if removal["threshold"] else "",
        }
        for removal in removals
        for (low, high), kept, removed in zip(pairwise(EDGES.tolist()), removal["kept"], removal["removed"], strict=True)
        if kept or removed
    ]  # fmt: skip


def _keys(cell: Cell) -> dict[str, Any]:
    names = ("method", "data", "model", "sparsity", "seed", "budget")
    return {name: "" if value is None else value for name, value in zip(names, cell.keys, strict=True)}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads a table's rows as text; no rows if there is no file.

    Raises:
        InputError: The file cannot be read, or lacks columns.
    """
    if not path.exists():
        return []
    columns = TABLES[path.name]
    table = read_table(path, columns, columns)
    if len(table.columns) > len(columns):  # metrics
        table = read_table(path, columns, list(table.columns)).fillna("")
    return [{str(name): str(value) for name, value in row.items()} for row in table.to_dict("records")]
