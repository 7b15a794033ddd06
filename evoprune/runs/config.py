"""The file config.json of a run, checked before it is used, and compared with the run that is to begin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.problem.identity import VERSION
from evoprune.runs import records, sums
from evoprune.runs.settings import settings_difference

SCHEMA = 5
OLD = (4,)  # those that can be migrated
_KINDS = {"method": str, "settings": dict, "execution": dict, "divisors": dict, "identity_version": int, "identity": dict}


def read_config(folder: Path) -> dict[str, Any] | None:
    """Reads ``config.json``; None if there is none. Each value of this schema has its type and lies in its range.

    Raises:
        InputError: The file cannot be read, differs from the one that was written, or is of another version of evoprune.
    """
    path = folder / "config.json"
    before = records.read_json(path)
    if before is None:
        return None
    if before.get("schema") in OLD:
        raise InputError(f"{folder} was written by an earlier version of evoprune; run: evoprune migrate {folder}")
    if before.get("schema") != SCHEMA and sums.KEY not in before:
        raise InputError(
            f"{path} has schema {before.get('schema')!r}, and this version of evoprune {SCHEMA}; choose another --out."
        )
    config = sums.read_sealed(path)
    assert config is not None
    if wrong := wrong_values(config):
        raise InputError(
            f"{folder / 'config.json'} has no proper {', '.join(wrong)}; remove the folder, or choose another --out."
        )
    return config


def wrong_values(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of the values that are missing or not as they should be."""
    if wrong := [name for name, kind in _KINDS.items() if not isinstance(config.get(name), kind)]:
        return wrong
    threads, engine = config["execution"].get("threads", 1), config["execution"].get("engine", "auto")
    arithmetic = config["execution"].get("arithmetic", {})
    proper = {
        "threads": type(threads) is int and 0 < threads < 10_000,
        "engine": isinstance(engine, str),
        "arithmetic": isinstance(arithmetic, dict) and all(type(version) is int for version in arithmetic.values()),
        "identity": all(isinstance(part, str) for part in config["identity"].values()),
        "divisors": all(type(number) in (int, float) for number in config["divisors"].values()),
    }
    return [name for name, is_proper in proper.items() if not is_proper]


def difference(config: Mapping[str, Any], method: str, settings: Mapping[str, Any]) -> str:
    """Returns in words how a run that was recorded differs from the one that is to begin; empty for no difference."""
    if config["schema"] != SCHEMA:
        return f"its records have schema {config['schema']}, those of this version of evoprune {SCHEMA}"
    if config["identity_version"] != VERSION:
        return f"its problem was identified by version {config['identity_version']}, this version of evoprune has {VERSION}"
    if config["method"] != method:
        return f"its method is {config['method']}, now {method}"
    return settings_difference(config["settings"], settings)
