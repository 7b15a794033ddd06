"""Folders of comparisons of the last schema, brought to this one."""

from __future__ import annotations

from pathlib import Path

from evoprune.comparison.course import SCHEMA
from evoprune.comparison.rows import TABLES, read_rows, row_keys
from evoprune.errors import InputError
from evoprune.runs import records, sums
from evoprune.runs.migrate import enter_sums, migrate_run


def migrate(folder: Path) -> list[Path]:
    """Brings the folder of a run or of a comparison to this version's schema.

    Args:
        folder: The folder.

    Returns:
        The folders that were changed.

    Raises:
        InputError: It is neither, or of no version that can be migrated, or a file is damaged.
    """
    if not (folder / "compare.json").exists():
        return [folder] if migrate_run(folder) else []
    changed = [path.parent for path in sorted(folder.glob("cells/*/config.json")) if migrate_run(path.parent)]
    settings = records.read_json(folder / "compare.json") or {}
    if settings.get("schema") == SCHEMA:
        return changed
    if settings.get("schema") != 1:
        raise InputError(f"{folder / 'compare.json'} has schema {settings.get('schema')!r}; expected 1.")
    enter_sums(folder, list(TABLES))
    cells = sorted(map(row_keys, read_rows(folder / "cells.csv")), key=str)
    sums.write_sealed(folder / "compare.json", {**settings, "schema": SCHEMA, "cells": cells})
    return [*changed, folder]
