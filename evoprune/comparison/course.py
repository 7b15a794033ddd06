"""The course of a comparison, and its tables, which are written as its cells finish. Only the main process does this.

A cell is finished if ``cells.csv`` has its row, so a comparison can be resumed without its run folders. Several processes may
work on one comparison: a cell that another process is working on is left to it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from evoprune.comparison.budget import options_of
from evoprune.comparison.cells import GIVEN, Cell, Comparison
from evoprune.comparison.execute import check_cells, forget_problems, make_problem, problem_of, with_facts
from evoprune.comparison.methods import split_control
from evoprune.comparison.rows import TABLES, add_rows, finished, read_rows, row_keys
from evoprune.comparison.spread import base_of, mask_path, serial_cells, spread_cells
from evoprune.comparison.subject import Facts, Key, facts_difference
from evoprune.errors import InputError
from evoprune.runs import records, sums
from evoprune.runs.config import read_config
from evoprune.runs.settings import settings_difference
from evoprune.system import loading, terminal
from evoprune.system.files import remove_made, require_own
from evoprune.system.importing import require_main_guard
from evoprune.workers.base import Workers
from evoprune.workers.choose import choose_workers, require_devices
from evoprune.workers.serial import Serial

SCHEMA = 2


def compare(
    comparison: Comparison, cells: Sequence[Cell], folder: Path, workers: str = "auto", devices: Sequence[str] = ()
) -> list[Cell]:
    """Does the cells that are missing, on workers if there are any, and updates the tables.

    Args:
        comparison: The settings that the cells share.
        cells: The cells; those that do not fit their budget are left out.
        folder: Folder of the tables, and of the run folders in ``cells``.
        workers: See :func:`evoprune.workers.choose.choose_workers`. If there are at least as many
            cells as workers, each worker does whole cells; otherwise the workers share the masks of each cell.
        devices: GPUs, such as cuda:0, one for each process of ``pool:N`` or ``dask:N``; none if they share one.

    Returns:
        The cells that are not done, since another process is working on them.

    Raises:
        InputError: A value that cannot be served, or the folder holds a comparison with other settings.
        RunError: A worker failed.
    """
    require_main_guard()
    folder = folder.absolute()
    require_own(folder)
    forget_problems()
    cells = check_cells(comparison, cells)
    comparison = with_facts(comparison, cells)
    evaluating = choose_workers(workers, devices=_on_cuda(comparison, cells, devices))
    with _nothing_left(folder, cells):
        with _locked(folder):
            comparison, every = _keep_settings(comparison, cells, folder)
            cells = check_cells(comparison, every) if _drop_damaged_tables(folder) else cells
        with loading.unchanging():
            return _do_missing(comparison, cells, folder, evaluating)


def _on_cuda(comparison: Comparison, cells: Sequence[Cell], devices: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the GPUs of the workers, after a check that the cells' problems go with them.

    Raises:
        InputError: They do not, or there are no such GPUs.
    """
    names = (devices,) if isinstance(devices, str) else tuple(devices)
    for problem in map(functools.partial(make_problem, comparison), cells[:1] if names else ()):
        require_devices(names, problem.device)
    return names


def _do_missing(comparison: Comparison, cells: Sequence[Cell], folder: Path, evaluating: Workers) -> list[Cell]:
    """Does the cells that are missing, and returns those that another process is working on."""
    runs = folder / "cells"
    done, failed = finished(folder), _failed(cells, folder)
    todo: list[Cell] = []
    for cell in cells:
        base = base_of(cell)
        if cell.keys in done or _is_added(comparison, cell, folder):
            continue
        if base is not None and base not in [*todo, *failed] and not mask_path(base, runs).exists():
            todo.append(base)  # its mask is needed
        todo.append(cell)
    do: Callable[..., Iterator[tuple[Cell, str]]] = serial_cells
    with ExitStack() as stack, terminal.bar(len(todo), "cells", unit="cell", shown=bool(todo)) as bar:
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


@contextmanager
def _nothing_left(folder: Path, cells: Sequence[Cell]) -> Iterator[None]:
    """Removes the folder of a comparison that was made, but in which no cell could begin."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made and not (folder / "cells.csv").exists() and not list(folder.glob("cells/*/config.json")):
            with contextlib.suppress(OSError, InputError):
                with _locked(folder):
                    wanted = {tuple(keys) for keys in (read_settings(folder) or {"cells": ()})["cells"]}
                    is_ours = wanted <= {cell.keys for cell in cells}  # else another process is beginning
                    if is_ours:
                        (folder / "compare.json").unlink(missing_ok=True)
                if is_ours:
                    remove_made(folder, [folder / "cells", *made] if (folder / "cells").exists() else made)
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes a comparison's folder, and keeps other processes from its settings and tables.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock").acquire()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}; choose another --out.") from error
    with lock:
        yield


def _keep_settings(comparison: Comparison, cells: Sequence[Cell], folder: Path) -> tuple[Comparison, list[Cell]]:
    """Writes the comparison's settings, those of its methods, and its cells, or checks them against those that are there.

    Returns:
        The comparison with the facts of the problems of all commands so far, and their cells.

    Raises:
        InputError: The folder holds a comparison with other settings or problems, or of another version of evoprune.
    """
    methods = {cell.base: options_of(comparison, cell.base) for cell in cells}
    settings = {"schema": SCHEMA, "settings": comparison.settings(), "methods": json.loads(json.dumps(methods, default=asdict))}
    path, every = folder / "compare.json", list(cells)
    problems: dict[Key, Facts] = dict(comparison.facts)
    before = read_settings(folder)
    if before is not None:
        with records.as_written(path):
            known = {name: dict(options) for name, options in before["methods"].items()}
            same = {"settings": before["settings"], **{name: known[name] for name in methods if name in known}}
            every = list(dict.fromkeys([*(Cell(*keys) for keys in before["cells"]), *cells]))
            was = {(data, model, seed): facts for data, model, seed, facts in before.get("problems", ())}
        now = {"settings": settings["settings"], **{name: settings["methods"][name] for name in same if name != "settings"}}
        difference = _kinds_difference(same, now) or settings_difference(same, now) or _problems_difference(comparison, was)
        if difference:
            raise InputError(f"{folder} holds another comparison: {difference}. Choose another --out.")
        settings["methods"] = known | settings["methods"]
        problems = was | problems
    more = {"problems": [[*key, facts] for key, facts in problems.items()]} if problems else {}
    sums.write_sealed(path, {**settings, "cells": [cell.keys for cell in every], **more})
    return replace(comparison, facts=problems), every


def _kinds_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    was, has = (each["settings"].get("recipe") == GIVEN for each in (before, now))
    kinds = {True: "given as an object", False: "made of names and options"}
    return "" if was == has else f"its problem was {kinds[was]}, now it is {kinds[has]}"


def _problems_difference(comparison: Comparison, before: Mapping[Key, Facts]) -> str:
    """Returns in words how the user's own problems were and are now; of a seed that is new, one that is known is compared."""
    now = dict(comparison.facts)
    for data, model in {key[:2] for key in now}:
        known = [key for key in before if key[:2] == (data, model)]
        if known and not any(key in now for key in known):
            cell = Cell("dense", data, model, 0.0, known[0][2])
            now |= with_facts(comparison, [cell]).facts
    found = {key[2]: facts_difference(before[key], facts) for key, facts in now.items() if key in before}
    return next((f"the problem of seed {seed}: {text}" for seed, text in found.items() if text), "")


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Reads ``compare.json``; None if there is none.

    Raises:
        InputError: The file differs from the one that was written, or is of another version of evoprune.
    """
    path = folder / "compare.json"
    before = records.read_json(path)
    if before is not None and sums.KEY not in before and before.get("schema") == 1:
        raise InputError(f"{folder} was written by an earlier version of evoprune; run: evoprune migrate {folder}")
    return sums.read_sealed(path)


def _drop_damaged_tables(folder: Path) -> bool:
    """Removes the tables if one of them is damaged, and says so: their rows come from the run folders."""
    there = [name for name in TABLES if (folder / name).exists()]
    names = sums.damaged(folder) if there or (folder / sums.FILE).exists() else []
    if not names:
        return False
    warnings.warn(
        f"{', '.join(names)} in {folder} differs from what evoprune wrote; the tables are made again from the folders of the "
        f"cells, and cells without one are done again.",
        stacklevel=3,
    )
    for name in reversed([*TABLES, sums.FILE]):
        (folder / name).unlink(missing_ok=True)
    return True


def _is_added(comparison: Comparison, cell: Cell, folder: Path) -> bool:
    """Adds the rows of a cell that was killed before they were written; False if its run folder is not finished and intact."""
    runs = folder / "cells"
    if not (runs / cell.folder / "result.json").exists():
        return False
    try:
        _require_same_run(comparison, cell, runs)
        with records.as_written(runs / cell.folder):
            add_rows(folder, cell, runs)
    except sums.DamageError as error:
        warnings.warn(f"{error} {cell.folder} is done again.", stacklevel=3)
        return False
    return True


def _require_same_run(comparison: Comparison, cell: Cell, runs: Path) -> None:
    config = read_config(runs / cell.folder)
    problem = problem_of(comparison, cell)
    with records.as_written(runs / cell.folder):
        before = {} if config is None else config["settings"]["problem"]
    now = {} if problem is None else json.loads(json.dumps(problem.config()))
    if split_control(cell.method)[1] is None and (difference := settings_difference(before, now)):
        raise InputError(f"{runs / cell.folder} holds another run: {difference}. Remove it, or choose another --out.")
