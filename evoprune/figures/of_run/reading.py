"""Readers that the figures of a run share; the run may not be finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evoprune.comparison.frames import read_frame
from evoprune.errors import InputError
from evoprune.runs import records
from evoprune.runs.config import read_config as config_of
from evoprune.runs.sums import require_intact
from evoprune.system.files import require_own


def method_of(folder: Path) -> str | None:
    """Returns the method of a run; None if the folder holds no run that can be read."""
    try:
        config = config_of(folder)
    except InputError:
        return None
    return None if config is None else str(config["method"])


def is_finished(folder: Path) -> bool:
    """Tells whether a run is finished."""
    return (folder / "result.json").exists()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads ``config.json``.

    Raises:
        InputError: The folder holds no run, or one of another version of evoprune.
    """
    require_own(folder)
    config = config_of(folder)
    if config is None:
        raise InputError(f"{folder} holds no run; expected a folder with config.json, as evolve writes.")
    return config


def read_finished(folder: Path, *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads ``config.json`` and ``result.json``.

    Args:
        folder: The run folder.
        names: Further files that will be read, which are checked with them.

    Raises:
        InputError: The folder holds no finished run, or a file differs from the one that was written.
    """
    require_own(folder)
    config, result = config_of(folder), records.read_json(folder / "result.json")
    if config is None or result is None:
        raise InputError(f"{folder} holds no finished run; expected a folder with config.json and result.json.")
    require_intact(folder, "result.json", *names)
    return config, result


def read_generations(folder: Path) -> pd.DataFrame:
    """Reads ``generations.csv``: a row a generation.

    Raises:
        InputError: See :func:`read_rows`.
    """
    columns = ("gen", "nevals", "best", "min", "mean", "max", "std", "diversity", "chance_diversity")
    return read_rows(folder, "generations.csv", columns)


def read_rows(folder: Path, name: str, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a table of an evolution.

    Args:
        folder: The run folder.
        name: Name of the file.
        columns: The columns that it must have; others are kept.
        text: The columns among them that are text.

    Raises:
        InputError: There is no such file, it has no rows yet, or it is not that of an evolution.
    """
    require_own(folder)
    path = folder / name
    if not path.exists():
        when = "when it ends" if name == "bests.csv" else "after each generation"
        raise InputError(f"{folder} holds no {name}, which evolve writes {when}; choose a run of evolve, or wait.")
    require_intact(folder, name)
    rows = read_frame(path, columns, text)
    if rows.empty:
        raise InputError(f"{path} has no rows; expected one a generation; wait until the run has finished its first.")
    return rows


def objectives_of(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of the objectives of a run.

    Raises:
        InputError: The run has no fitness.
    """
    fitness = config["settings"].get("fitness")
    if not fitness:
        raise InputError(f"config.json is of a run of {config.get('method')} without a fitness; expected a run of evolve.")
    return [fitness] if isinstance(fitness, str) else list(fitness)


def label_of(objective: str) -> str:
    """Returns the label of an axis that shows an objective."""
    known = {"accuracy": "validation accuracy after the brief training", "sparsity": "sparsity"}
    return known.get(objective, f"fitness ({objective})")


def is_evolution_with(folder: Path, read: Callable[[Path], object]) -> bool:
    """Tells whether a folder holds a run of evolve from which a reader can read."""
    if method_of(folder) != "evolve":
        return False
    try:
        read(folder)
    except InputError:
        return False
    return True
