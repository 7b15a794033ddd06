"""The course of a comparison, and its tables, which are written as its cells finish. Only the origin comes here.

A cell is finished where ``cells.csv`` has its row, so a comparison can be gone on with where the run folders are not at hand.
Several processes may work on one comparison: a cell that another one is at is left to it.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from evoprune import records, tables
from evoprune.compare import METHODS, Cell, Comparison, check_cells, options_of, problem_of, split_control
from evoprune.dissipation import EDGES
from evoprune.errors import InputError
from evoprune.files import read_bytes, require_own
from evoprune.importing import require_main_guard
from evoprune.mask import Mask, expected_iou
from evoprune.parallel import Cluster, choose_workers, run_on_scoop, scoop
from evoprune.run import settings_difference
from evoprune.spread import base_of, mask_path, serial_cells, spread_cells

# cells.csv is written last: it says that a cell is finished
COLUMNS: dict[str, Sequence[str]] = {
    "layers.csv": tables.LAYERS,
    "overlaps.csv": tables.OVERLAPS,
    "movement.csv": tables.MOVEMENT,
    "cells.csv": tables.COLUMNS,
}
KEYS = ("method", "data", "model", "sparsity", "seed", "budget", "layer", "a", "b", "epoch", "low")
Row = Mapping[str, Any]


def compare(comparison: Comparison, cells: Sequence[Cell], folder: Path, workers: str = "auto") -> list[Cell]:
    """Does the cells that are missing, spread over workers where there are some, and keeps the tables.

    Args:
        comparison: What the cells share.
        cells: The cells; those that do not fit their budget are left out.
        folder: Folder of the tables, and of the run folders in ``cells``.
        workers: See :func:`evoprune.parallel.choose_workers`. Whole cells are spread where there are as many as workers, else
            Dask's workers share the masks of each.

    Returns:
        The cells that are not done, since another process is at them.

    Raises:
        InputError: A value that cannot be served, or the folder holds a comparison with other settings.
        RunError: A worker failed.
    """
    require_main_guard()
    folder = folder.absolute()
    require_own(folder)
    cells = check_cells(comparison, cells)
    _keep_settings(comparison, cells, folder)
    runs = folder / "cells"
    done, failed = finished(folder), _failed(cells, folder)
    todo: list[Cell] = []
    for cell in cells:
        base = base_of(cell)
        if cell.keys in done:
            continue
        if (runs / cell.folder / "result.json").exists():  # killed before its rows were written
            _require_same_run(comparison, cell, runs)
            with records.as_written(runs / cell.folder):
                add_rows(folder, cell, runs)
            continue
        if base is not None and base not in [*todo, *failed] and not mask_path(base, runs).exists():
            todo.append(base)  # its mask is needed
        todo.append(cell)
    evaluating = choose_workers(workers)
    do: Callable[..., Iterator[tuple[Cell, str]]] = serial_cells
    if evaluating is scoop:
        do = functools.partial(spread_cells, run_on_scoop)
    with ExitStack() as stack, tqdm(total=len(todo), desc="cells", unit="cell", smoothing=0) as bar:
        if isinstance(evaluating, Cluster) and todo:
            stack.callback(evaluating.close)
            do = functools.partial(serial_cells, workers=evaluating)
            if len(todo) >= evaluating.count():
                do = functools.partial(spread_cells, evaluating.run)
        for cell, reason in do(comparison, todo, runs, failed):
            add_rows(folder, cell, runs, reason)
            bar.set_postfix_str(cell.folder)
            bar.update()
    done = finished(folder)
    return [cell for cell in cells if cell.keys not in done]


def finished(folder: Path) -> set[tuple[Any, ...]]:
    """Returns the keys of the cells that ``cells.csv`` has."""
    with records.as_written(folder / "cells.csv"):
        return {_row_keys(row) for row in _read(folder / "cells.csv")}


def _row_keys(row: Row) -> tuple[Any, ...]:
    budget = float(row["budget"]) if row["budget"] else None
    return (row["method"], row["data"], row["model"], float(row["sparsity"]), int(row["seed"]), budget)


def add_rows(folder: Path, cell: Cell, runs: Path, reason: str = "") -> None:
    """Adds a cell's rows to the tables; several processes may do so."""
    made: dict[str, list[Row]] = {"cells.csv": [cell_row(cell, runs, reason)]}
    if not reason:
        made |= {
            "layers.csv": layer_rows(cell, runs),
            "overlaps.csv": overlap_rows(cell, runs),
            "movement.csv": movement_rows(cell, runs),
        }
    with FileLock(folder / ".lock"):
        for name, columns in COLUMNS.items():
            if rows := made.get(name):
                new = {_identity(row) for row in rows}  # what a killed process left is replaced
                every = [*(row for row in _read(folder / name) if _identity(row) not in new), *rows]
                records.write_table(folder / name, columns, _of_least_seed(every) if name == "movement.csv" else every)


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
    """Returns the cell's row of ``cells.csv``; a failed one has its reason in the place of results."""
    result = records.read_json(runs / cell.folder / "result.json")
    if reason or result is None:
        return {**dict.fromkeys(tables.COLUMNS, ""), **_keys(cell), "note": reason or "no result"}
    values = {name: "" if result.get(name) is None else result[name] for name in tables.COLUMNS}
    return values | _keys(cell) | {"note": result["collapse"]}


def layer_rows(cell: Cell, runs: Path) -> list[Row]:
    """Returns the survivors of each layer; none of the dense network, which has all."""
    if cell.base == "dense":
        return []
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
        if method not in METHODS or replace(cell, method=method).folder != path.parent.name:
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
    with records.as_written(path):
        rows = csv.DictReader(io.StringIO(read_bytes(path).decode(), newline=""), restval="")
        if lacking := set(COLUMNS[path.name]) - set(rows.fieldnames or COLUMNS[path.name]):
            raise ValueError(f"it lacks the columns {', '.join(sorted(lacking))}")
        return list(rows)


def _failed(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Returns the cells whose rows say that they failed."""
    rows = {_row_keys(row) for row in _read(folder / "cells.csv") if not row["survivors"]}
    wanted = [*cells, *(base for base in map(base_of, cells) if base is not None)]
    return [cell for cell in wanted if cell.keys in rows]


def _keep_settings(comparison: Comparison, cells: Sequence[Cell], folder: Path) -> None:
    """Writes the comparison's settings and those of its methods, or checks them against what is there.

    Raises:
        InputError: The folder holds a comparison with other settings.
    """
    methods = {cell.base: options_of(comparison, cell.base) for cell in cells}
    settings = {"schema": 1, "settings": comparison.settings(), "methods": json.loads(json.dumps(methods, default=asdict))}
    path = folder / "compare.json"
    before = records.read_json(path)
    if before is not None:
        with records.as_written(path):
            known = {name: dict(options) for name, options in before["methods"].items()}
            same = {"settings": before["settings"], **{name: known[name] for name in methods if name in known}}
        now = {"settings": settings["settings"], **{name: settings["methods"][name] for name in same if name != "settings"}}
        if difference := settings_difference(same, now):
            raise InputError(f"{folder} holds another comparison: {difference}. Choose another --out.")
        settings["methods"] = known | settings["methods"]
    folder.mkdir(parents=True, exist_ok=True)
    records.write_json(path, settings)


def _require_same_run(comparison: Comparison, cell: Cell, runs: Path) -> None:
    config = records.read_json(runs / cell.folder / "config.json")
    problem = problem_of(comparison, cell)
    with records.as_written(runs / cell.folder):
        before = {} if config is None else config["settings"]["problem"]
    now = {} if problem is None else json.loads(json.dumps(problem.config()))
    if split_control(cell.method)[1] is None and (difference := settings_difference(before, now)):
        raise InputError(f"{runs / cell.folder} holds another run: {difference}. Remove it, or choose another --out.")
