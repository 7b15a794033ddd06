"""The command ``evoprune compare``: a comparison of methods, with its tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from evoprune.cli.forms import flat, parse, script
from evoprune.cli.report import write_report
from evoprune.system import signals


@dataclass(frozen=True)
class LoadOptions:
    """Options of the command itself."""

    load: tuple[Path, ...] = ()
    """Your Python files, which register methods, baselines, networks and so on; see the manual."""
    report: bool = True
    """Write the page report.html at the end."""


# options of the comparison take their place
HIDDEN = {"problem": ("data", "seed")}


def compare(arguments: Sequence[str], prog: str | None) -> None:
    """Does the missing cells of a comparison, and writes its tables and figures.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.
    """
    with signals.nothing_begun():
        from filelock import FileLock

        from evoprune.comparison import course, markdown
        from evoprune.comparison.options import CompareOptions, plan
        from evoprune.problem.options import ProblemOptions
        from evoprune.problem.recipe import Recipe

        parts = {"comparison": CompareOptions, "problem": ProblemOptions, "recipe": Recipe, "command": LoadOptions}
        options = parse(script("compare", parts, HIDDEN), "Compare methods over sparsities, seeds and data.", arguments, prog)
    chosen = options.comparison
    problem, recipe = (
        {field.name: getattr(part, field.name) for field in fields(part)} for part in (options.problem, options.recipe)
    )
    comparison, wanted = plan(chosen, problem, recipe)
    shown = {**flat(options.problem), **flat(options.recipe), **flat(chosen)}
    print("\n".join(f"{name:20} {value}" for name, value in shown.items()), end="\n\n", flush=True)
    folder = chosen.out.absolute()
    left = course.compare(comparison, wanted, folder, chosen.workers)
    if left:
        print(f"{len(left)} of {len(wanted)} cells are being done by another process; run again when it has finished")
    with FileLock(folder / ".drawing.lock"):  # one process at a time draws, each with all rows until then
        table = markdown.write_tables(folder)
        print(table.read_text(encoding="utf-8"))
        pages = write_report(folder, anew=True) if options.command.report else []
        print(f"written to {chosen.out}: {', '.join(['cells.csv', table.name, *_draw_figures(folder), *pages])}")


def _draw_figures(folder: Path) -> list[str]:
    """Draws the figures, and returns the names of their files; a failure is a warning."""
    from evoprune.figures import drawing

    try:
        with drawing.importing_matplotlib():
            from evoprune.figures import comparisons
        return [path.name for path in comparisons.save_compare_figures(folder)]
    except Exception as error:  # noqa: BLE001 - the results are there
        drawing.warn("the figures", error)
        return []
