"""The tables of a comparison, written as its cells finish; and the course of the comparison. Only the origin comes here."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from evoprune import records, tables
from evoprune.compare import Cell, Comparison, scoop_cells, serial_cells, split_control
from evoprune.dissipation import EDGES
from evoprune.errors import InputError
from evoprune.mask import Mask
from evoprune.parallel import under_scoop
from evoprune.plot_compare import LAYERS, MOVEMENT, OVERLAPS
from evoprune.run import settings_difference

# cells.csv is written last: it says that a cell is finished
COLUMNS: dict[str, Sequence[str]] = {
    "layers.csv": LAYERS,
    "overlaps.csv": OVERLAPS,
    "movement.csv": MOVEMENT,
    "cells.csv": tables.COLUMNS,
}
KEYS = ("method", "data", "model", "sparsity", "seed", "budget", "layer", "a", "b", "epoch", "low")
Row = Mapping[str, Any]


def compare(comparison: Comparison, cells: Sequence[Cell], folder: Path, runs: Path | None = None) -> list[Cell]:
    """Does the cells that are missing, spread over SCOOP's workers where it runs, and keeps the tables.

    Args:
        comparison: What the cells share.
        cells: The cells.
        folder: Folder of the tables.
        runs: Folder of the run folders; None: ``cells`` in the folder.

    Returns:
        The cells that are not done, since another process is at them.

    Raises:
        InputError: The folder holds a comparison with other settings.
        RunError: A worker failed.
    """
    runs = folder / "cells" if runs is None else runs
    _require_same(comparison, folder)
    todo = []
    for cell in cells:
        if cell.keys in finished(folder):
            continue
        if (runs / cell.folder / "result.json").exists():  # killed before its rows were written
            add_rows(folder, cell, runs)
        else:
            todo.append(cell)
    do = scoop_cells if under_scoop() else serial_cells
    with tqdm(total=len(cells), initial=len(cells) - len(todo), desc="cells", unit="cell", smoothing=0) as bar:
        for cell, reason in do(comparison, todo, runs):
            add_rows(folder, cell, runs, reason)
            bar.set_postfix_str(cell.folder)
            bar.update()
    done = finished(folder)
    return [cell for cell in cells if cell.keys not in done]


def finished(folder: Path) -> set[tuple[Any, ...]]:
    """Returns the keys of the cells that ``cells.csv`` has."""
    return {
        (r["method"], r["data"], r["model"], float(r["sparsity"]), int(r["seed"]), float(r["budget"]) if r["budget"] else None)
        for r in _read(folder / "cells.csv")
    }


def add_rows(folder: Path, cell: Cell, runs: Path, reason: str = "") -> None:
    """Adds a cell's rows to the tables; several processes may do so."""
    made: dict[str, list[Row]] = {"cells.csv": [cell_row(cell, runs, reason)]}
    if not reason:
        made |= {"layers.csv": layer_rows(cell, runs), "overlaps.csv": overlap_rows(cell, runs)}
    with FileLock(folder / ".lock"):
        one = {name: str(value) for name, value in _keys(cell).items() if name != "seed"}
        if not reason and not any(all(row[name] == one[name] for name in one) for row in _read(folder / "movement.csv")):
            made["movement.csv"] = movement_rows(cell, runs)
        for name, columns in COLUMNS.items():
            if rows := made.get(name):
                new = {_identity(row) for row in rows}  # what a killed process left is replaced
                kept = [row for row in _read(folder / name) if _identity(row) not in new]
                records.write_table(folder / name, columns, [*kept, *rows])


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEYS if name in row)


def cell_row(cell: Cell, runs: Path, reason: str = "") -> Row:
    """Returns the cell's row of ``cells.csv``; a failed one has its reason in the place of results."""
    result = records.read_json(runs / cell.folder / "result.json")
    if reason or result is None:
        return {**dict.fromkeys(tables.COLUMNS, ""), **_keys(cell), "note": reason or "no result"}
    values = {name: "" if result.get(name) is None else result[name] for name in tables.COLUMNS}
    return values | _keys(cell) | {"note": result["collapse"]}


def layer_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the survivors of each layer."""
    result = records.read_json(runs / cell.folder / "result.json") or {}
    return [{**_keys(cell), "layer": name, "survivors": kept, "size": size} for name, (kept, size) in result["layers"].items()]


def overlap_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the overlap with the masks of the other methods that are there, beside what chance would give.

    Of the main table, and of methods proper: a control has its method's mask, and the dense network overlaps with all.
    """
    others = [path for path in runs.glob("*/mask.npz") if path.parent.name != cell.folder]
    if cell.budget is not None or cell.method == "dense" or split_control(cell.method)[1] is not None:
        return []
    mask = Mask.load(runs / cell.folder / "mask.npz")
    rows: list[Row] = []
    for path in others:
        method = path.parent.name.removesuffix(cell.folder.removeprefix(cell.method))
        if replace(cell, method=method).folder != path.parent.name or split_control(method)[1] is not None:
            continue
        other = Mask.load(path)
        own, theirs = ([int(layer.sum()) for layer in m.layers.values()] for m in (mask, other))
        sizes = [layer.size for layer in mask.layers.values()]
        (a, b), keys = (
            sorted((cell.method, method)),
            {name: _keys(cell)[name] for name in ("data", "model", "sparsity", "seed")},
        )
        rows.append({**keys, "a": a, "b": b, "iou": mask.iou(other), "expected": tables.expected_iou(own, theirs, sizes)})
    return rows


def movement_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the histogram of movement at each removal, with its cut; :func:`add_rows` keeps those of one seed."""
    config = records.read_json(runs / cell.folder / "config.json") or {"settings": {}}
    settings = config["settings"].get("dissipation", config["settings"])
    removals = (records.read_json(runs / cell.folder / "removals.json") or {}).get("winner", [])
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


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _require_same(comparison: Comparison, folder: Path) -> None:
    before = records.read_json(folder / "compare.json")
    difference = "" if before is None else settings_difference(before, comparison.settings())
    if difference:
        raise InputError(f"{folder} holds another comparison: {difference}. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    if before is None:
        records.write_json(folder / "compare.json", comparison.settings())
