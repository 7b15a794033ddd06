"""The runs and comparisons below a folder, as far as their records can be read; nothing is written or waited for."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoprune.comparison.course import read_settings
from evoprune.comparison.rows import finished, row_keys
from evoprune.errors import InputError
from evoprune.runs import records, sums
from evoprune.runs.config import read_config
from evoprune.runs.evaluations import Evaluations
from evoprune.system.files import require_own

# The first words of a state; numbers or a reason follow some of them.
FINISHED, UNFINISHED, RUNNING, DAMAGED = "finished", "unfinished", "running", "damaged"
# Files that only a run or a comparison has, by which one is known whose settings cannot be read.
_OF_RUNS = ("evaluations.csv", "checkpoint", "checksums.json", "result.json")


@dataclass(frozen=True)
class Entry:
    """A run or a comparison.

    Attributes:
        folder: Its folder.
        kind: ``run`` or ``comparison``.
        method: Name of the method; of a comparison the names of all.
        data: Name of the data.
        model: Name of the network.
        sparsity: Fraction of the prunable weights that is removed; None if it is not known yet, or there are several.
        test_accuracy: From 0 to 1; None if there is none.
        cost: Epochs of training the dense network; None if it is not recorded.
        state: ``finished``, ``unfinished``, ``running`` or ``damaged``, with the progress or the reason.
        date: When the folder's records last changed, in seconds since 1970.
    """

    folder: Path
    kind: str
    method: str = ""
    data: str = ""
    model: str = ""
    sparsity: float | None = None
    test_accuracy: float | None = None
    cost: float | None = None
    state: str = ""
    date: float | None = None


def find(top: Path) -> Iterator[Entry]:
    """Yields the runs and comparisons in a folder and below it, in the order of their names; folders of others are passed over.

    Cells of a comparison are not listed apart, and links to folders are not followed.

    Args:
        top: The folder.
    """
    for place, folders, files in os.walk(top):
        entry = _entry(Path(place), {*folders, *files})
        if entry is not None:
            yield entry
        folders[:] = [] if entry is not None else sorted(name for name in folders if not name.startswith("."))


def _entry(folder: Path, names: set[str]) -> Entry | None:
    """Returns the entry of a folder, or None if it is none of evoprune's."""
    if "compare.json" in names:
        return _described(folder, "comparison", "compare.json", _comparison)
    if "config.json" in names and (names & set(_OF_RUNS) or _is_config(folder / "config.json")):
        return _described(folder, "run", "config.json", _run)
    return None


def _is_config(path: Path) -> bool:
    try:
        content = records.read_json(path) or {}
    except InputError:
        return False
    return {"schema", "method", "settings"} <= set(content)


def _described(folder: Path, kind: str, name: str, describe: Any) -> Entry:
    try:
        with records.as_written(folder):
            require_own(folder)
            return Entry(folder, kind, date=_date(folder), **describe(folder))
    except (InputError, OSError, ValueError, RecursionError) as error:
        word = "of an earlier version" if "evoprune migrate" in str(error) else DAMAGED
        return Entry(folder, kind, state=f"{word}: {error}", date=_date(folder))


def _run(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    assert config is not None
    problem = config["settings"]["problem"]
    known = {"method": config["method"], "data": _name(problem["data"]), "model": _name(problem["model"])}
    result = records.read_json(folder / "result.json")
    if result is None:
        return {
            **known,
            "sparsity": _number(config["settings"].get("sparsity")),
            "state": _progress(folder, config["settings"]),
        }
    numbers = {name: _number(result.get(name)) for name in ("sparsity", "test_accuracy", "cost")}
    damaged = sums.damaged(folder)
    return {**known, **numbers, "state": f"{DAMAGED}: {', '.join(damaged)}" if damaged else FINISHED}


def _progress(folder: Path, settings: Mapping[str, Any]) -> str:
    """Returns the state of a run without a result: its evaluations, of all those that its settings tell of."""
    found = Evaluations.read(folder / "evaluations.csv")
    if found.damage:
        return f"{DAMAGED}: {found.damage}"
    done = len({(gen, evaluation.mask) for gen, evaluation in found.rows})
    word = RUNNING if is_locked(folder) else f"{UNFINISHED}, resumable"
    generations = settings.get("generations")
    if isinstance(generations, int):
        return f"{word}: generation {max((gen for gen, _ in found.rows), default=0)} of {generations}"
    planned = settings.get("k")
    return f"{word}: {done}/{planned} masks" if isinstance(planned, int) else word + (f": {done} masks" if done else "")


def _comparison(folder: Path) -> dict[str, Any]:
    settings = read_settings(folder)
    assert settings is not None
    cells = {tuple(keys) for keys in settings["cells"]}
    keys = {row_keys({**dict(zip(_KEYS, cell, strict=True)), "budget": cell[5] or ""}) for cell in cells}
    done = len(finished(folder) & keys)
    columns = [list(dict.fromkeys(cell[i] for cell in settings["cells"])) for i in range(4)]
    names = [", ".join(map(str, column)) for column in columns[:3]]
    damaged = sums.damaged(folder, [name for name in ("cells.csv",) if (folder / name).exists()])
    state = FINISHED if done == len(keys) else f"{UNFINISHED}, resumable: {done}/{len(keys)} cells"
    if damaged:
        state = f"{DAMAGED}: {', '.join(damaged)}"
    elif done < len(keys) and any(is_locked(place) for place in folder.glob("cells/*")):
        state = f"{RUNNING}: {done}/{len(keys)} cells"
    sparsity = _number(columns[3][0]) if len(columns[3]) == 1 else None
    return dict(zip(_KEYS, names, strict=False)) | {"sparsity": sparsity, "state": state}


_KEYS = ("method", "data", "model", "sparsity", "seed", "budget")


def is_locked(folder: Path) -> bool:
    """Tells whether another process on this machine works in a run folder. Nothing is written."""
    try:
        lock = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _date(folder: Path) -> float | None:
    """Returns when the records of a folder last changed."""
    names = ("result.json", "cells.csv", "evaluations.csv", "config.json", "compare.json")
    times = []
    for name in names:
        try:
            times.append((folder / name).lstat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def _name(value: object) -> str:
    return value if isinstance(value, str) else "given as an object"


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None  # type: ignore[arg-type]
