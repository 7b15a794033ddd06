"""The command ``evoprune list``: runs and comparisons as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evoprune.cli.forms import form, parse
from evoprune.cli.output import FOR_A_PERSON, Output, OutputOptions
from evoprune.errors import InputError
from evoprune.system.streams import printable

if TYPE_CHECKING:
    from evoprune.comparison.listing import Entry

HEADS = {
    "folder": "folder", "method": "method", "data": "data", "model": "model", "sparsity": "sparsity",
    "test_accuracy": "test %", "cost": "cost", "state": "state", "date": "date",
}  # fmt: skip
_DOWNWARDS = ("test_accuracy", "date")


@dataclass(frozen=True)
class ListOptions(OutputOptions):
    """Options of the command."""

    folders: tuple[Path, ...] = field(default=(Path("runs"),), metadata={"positional": True})
    """Folders to search, with all below them."""
    sort: Literal["folder", "method", "data", "model", "sparsity", "test_accuracy", "cost", "state", "date"] = "folder"
    """The column to sort by: the most accurate and the latest first, else the smallest. Empty cells come last."""
    reverse: bool = False
    """Sort the other way."""


def list_folders(arguments: Sequence[str], prog: str | None, output: Output = FOR_A_PERSON) -> None:
    """Prints the runs and comparisons in folders, one a line.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.
        output: The place where they are printed.

    Raises:
        InputError: There is no such folder.
    """
    options = parse(form(ListOptions), "List the runs and comparisons in folders.", arguments, prog)
    for folder in options.folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {printable(folder)}; expected one with runs, such as evoprune list runs")
    from evoprune.comparison.listing import FINISHED, find

    # a folder may be given twice, or within another
    found = {entry.folder.resolve(): entry for folder in options.folders for entry in find(folder)}
    entries = _sorted(list(found.values()), options.sort, options.reverse)
    count = sum(entry.state == FINISHED for entry in entries)
    where = printable(", ".join(map(str, options.folders)))
    sentence = f"{where}: {len(entries)} runs and comparisons, {count} finished"
    if not output.is_quiet and output.document_to is None and entries:
        sentence = f"{_table(entries)}\n\n{sentence}"
    output.result({"runs": [{**asdict(entry), "folder": str(entry.folder)} for entry in entries]}, sentence)


def _sorted(entries: Sequence[Entry], column: str, reverse: bool) -> list[Entry]:
    def value(entry: Entry) -> Any:
        found = getattr(entry, column)
        return str(found) if column == "folder" else found

    with_value = [entry for entry in entries if value(entry) not in (None, "")]
    ordered = sorted(with_value, key=value, reverse=reverse != (column in _DOWNWARDS))
    return [*ordered, *(entry for entry in entries if value(entry) in (None, ""))]


def _table(entries: Sequence[Entry]) -> str:
    from tabulate import tabulate

    rows = [[printable(cell) for cell in _cells(entry)] for entry in entries]
    align = ["right" if name in ("sparsity", "test_accuracy", "cost") else "left" for name in HEADS]
    return str(tabulate(rows, list(HEADS.values()), tablefmt="simple", disable_numparse=True, colalign=align))


def _short(entry: Entry) -> str:
    """Returns a state that fits a table: the first words of a reason, without the folder, which is in the line already."""
    text = entry.state.replace(f"{entry.folder}{os.sep}", "").partition(";")[0]
    return text if len(text) <= 70 else f"{text[:67]}..."


def _cells(entry: Entry) -> list[str]:
    return [
        str(entry.folder),
        entry.method,
        entry.data,
        entry.model,
        "" if entry.sparsity is None else f"{entry.sparsity:.6g}",
        "" if entry.test_accuracy is None else f"{100 * entry.test_accuracy:.2f}",
        "" if entry.cost is None else f"{entry.cost:.3g}",
        _short(entry),
        "" if entry.date is None else datetime.fromtimestamp(entry.date).astimezone().strftime("%Y-%m-%d %H:%M"),
    ]
