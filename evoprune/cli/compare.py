"""The command ``evoprune compare``: a comparison of methods, with its tables and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evoprune.cli.forms import flat, parse, script
from evoprune.cli.output import FOR_A_PERSON, Output, OutputOptions
from evoprune.cli.report import write_report
from evoprune.system import signals
from evoprune.system.streams import printable


@dataclass(frozen=True)
class LoadOptions(OutputOptions):
    """Options of the command itself."""

    load: tuple[Path, ...] = ()
    """Your Python files, which register methods, baselines, networks and so on; see the manual."""
    report: bool = True
    """Write the page report.html at the end."""


# options of the comparison take their place
HIDDEN = {"problem": ("data", "seed")}


def compare(arguments: Sequence[str], prog: str | None, output: Output = FOR_A_PERSON) -> None:
    """Does the missing cells of a comparison, and writes its tables and figures.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.
        output: The place where the tables are printed.
    """
    with signals.nothing_begun():
        from filelock import FileLock

        from evoprune.comparison import course
        from evoprune.comparison.options import plan

        options = parse(command_line(), "Compare methods over sparsities, seeds and data.", arguments, prog)
    chosen = options.comparison
    problem, recipe = (
        {field.name: getattr(part, field.name) for field in fields(part)} for part in (options.problem, options.recipe)
    )
    comparison, wanted = plan(chosen, problem, recipe)
    shown = {**flat(options.problem), **flat(options.recipe), **flat(chosen)}
    output.more("\n".join(f"{name:20} {printable(value)}" for name, value in shown.items()) + "\n")
    folder = chosen.out.absolute()
    left = course.compare(comparison, wanted, folder, chosen.workers, chosen.devices)
    with FileLock(folder / ".drawing.lock"):  # one process at a time draws, each with all rows until then
        _print_result(folder, chosen.out, len(left), len(wanted), output)
        figures = _draw_figures(folder)
        pages = write_report(folder, anew=True) if options.command.report and figures is not None else []
        output.more(f"written to {chosen.out}: {', '.join(['cells.csv', 'table.md', *(figures or []), *pages])}")


def command_line() -> type[Any]:
    """Returns the dataclass of the command's options."""
    from evoprune.comparison.options import CompareOptions
    from evoprune.problem.options import ProblemOptions
    from evoprune.problem.recipe import Recipe

    parts = {"comparison": CompareOptions, "problem": ProblemOptions, "recipe": Recipe, "command": LoadOptions}
    return script("compare", parts, HIDDEN)


def _print_result(folder: Path, shown_folder: Path, left: int, count: int, output: Output) -> None:
    """Writes tables and figures, and prints the tables."""
    from evoprune.comparison import markdown
    from evoprune.comparison.frames import read_cells

    table, cells = markdown.write_tables(folder), read_cells(folder / "cells.csv")
    failed = int(cells["survivors"].isna().sum())
    sentence = f"comparison in {shown_folder}: {len(cells)} cells are done"
    warnings = [f"{left} of {count} cells are being done by another process; run again when it has finished"] if left else []
    warnings += [f"{failed} of {len(cells)} cells failed; their notes are in cells.csv"] if failed else []
    document = {"folder": str(shown_folder), "left": left, "cells": json.loads(cells.to_json(orient="records"))}
    output.result(document, printable(sentence), warnings)
    output.more("\n" + table.read_text(encoding="utf-8"))


def _draw_figures(folder: Path) -> list[str] | None:
    """Draws the figures, and returns the names of their files; a failure is a warning, and None."""
    from evoprune.figures import drawing

    try:
        with drawing.importing_matplotlib():
            from evoprune.figures import comparisons
        return [path.name for path in comparisons.save_compare_figures(folder)]
    except Exception as error:  # noqa: BLE001 - the results are there
        drawing.warn("the figures", error)
        return None
