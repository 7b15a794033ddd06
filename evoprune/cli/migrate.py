"""The command ``evoprune migrate``: folders of an earlier version are brought to this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evoprune.cli.forms import form, parse


@dataclass(frozen=True)
class MigrateOptions:
    """Options of the command."""

    folder: Path = field(default=Path(), metadata={"positional": True})
    """Folder of the run, or of the comparison."""


def migrate(arguments: Sequence[str], prog: str | None) -> None:
    """Brings a folder to the schema of this version, and prints what was changed.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.

    Raises:
        InputError: The folder holds neither a run nor a comparison, or is of no version that can be migrated.
    """
    folder = parse(form(MigrateOptions), "Bring the folder of an earlier version to this one.", arguments, prog).folder
    from evoprune.comparison.migrate import migrate as bring

    changed = bring(folder)
    print("\n".join(map(str, changed)) or f"{folder} is of this version already")
