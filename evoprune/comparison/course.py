"""The course of a comparison, and its tables, which are written as its cells finish. Only the main process does this.

A cell is finished if ``cells.csv`` has its row, so a comparison can be resumed without its run folders. Several processes may
work on one comparison: a cell that another process is working on is left to it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from evoprune.comparison.budget import options_of
from evoprune.comparison.cells import Cell, Comparison
from evoprune.comparison.execute import check_cells, problem_of
from evoprune.comparison.methods import split_control
from evoprune.comparison.rows import add_rows, finished, read_rows, row_keys
from evoprune.comparison.spread import base_of, mask_path, serial_cells, spread_cells
from evoprune.errors import InputError
from evoprune.runs import records
from evoprune.runs.settings import settings_difference
from evoprune.system.files import require_own
from evoprune.system.importing import require_main_guard
from evoprune.workers.choose import choose_workers
from evoprune.workers.serial import Serial


def compare(comparison: Comparison, cells: Sequence[Cell], folder: Path, workers: str = "auto") -> list[Cell]:
    """Does the cells that are missing, on workers if there are any, and updates the tables.

    Args:
        comparison: The settings that the cells share.
        cells: The cells; those that do not fit their budget are left out.
        folder: Folder of the tables, and of the run folders in ``cells``.
        workers: See :func:`evoprune.workers.choose.choose_workers`. If there are at least as many
            cells as workers, each worker does whole cells; otherwise the workers share the masks of each cell.

    Returns:
        The cells that are not done, since another process is working on them.

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
    with ExitStack() as stack, tqdm(total=len(todo), desc="cells", unit="cell", smoothing=0, disable=not todo) as bar:
        if todo and not isinstance(evaluating, Serial):
            stack.callback(evaluating.close)
            do = functools.partial(serial_cells, workers=evaluating)
            if len(todo) >= evaluating.count():
                do = functools.partial(spread_cells, evaluating)
        for cell, reason in do(comparison, todo, runs, failed):
            add_rows(folder, cell, runs, reason)
            bar.set_postfix_str(cell.folder)
            bar.update()
    done = finished(folder)
    return [cell for cell in cells if cell.keys not in done]


def _failed(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Returns the cells whose rows say that they failed."""
    rows = {row_keys(row) for row in read_rows(folder / "cells.csv") if not row["survivors"]}
    wanted = [*cells, *(base for base in map(base_of, cells) if base is not None)]
    return [cell for cell in wanted if cell.keys in rows]


def _keep_settings(comparison: Comparison, cells: Sequence[Cell], folder: Path) -> None:
    """Writes the comparison's settings and those of its methods, or checks them against those that are there.

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
