"""The command ``evoprune report``: runs and comparisons as one page, written or served while they continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evoprune.cli.forms import form, parse
from evoprune.errors import InputError
from evoprune.system import loading, signals


@dataclass(frozen=True)
class ReportOptions:
    """Options of the command."""

    runs: tuple[Path, ...] = field(default=(), metadata={"positional": True})
    """Folders of runs or comparisons."""
    out: Path | None = None
    """File to write. None: report.html in the folder; of several folders, in the working folder."""
    force: bool = False
    """Replace a file that is no page of evoprune's."""
    watch: bool = False
    """Serve the page on this machine alone, and refresh it while the run continues, until Ctrl-C; nothing is written."""
    port: int = 0
    """Port of --watch. 0: a free one."""
    load: tuple[Path, ...] = ()
    """Your Python files, which register figures; see the manual."""


def report(arguments: Sequence[str], prog: str | None) -> None:
    """Writes the page of runs and comparisons, or serves it.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.

    Raises:
        InputError: No folder, or one that holds neither a run nor a comparison; or a file that is somebody else's.
    """
    with signals.nothing_begun():
        options = parse(form(ReportOptions), "Write runs and comparisons as one page of HTML.", arguments, prog)
        if not options.runs:
            raise InputError("no folder is given; expected those of runs or comparisons: evoprune report RUN [RUN ...].")
        from evoprune.report import page, watch

        for path in options.load:
            loading.load(path)
        for folder in options.runs:
            if not folder.is_dir():
                raise InputError(f"there is no folder {folder}; expected that of a run or a comparison.")
    if not options.watch:
        print(page.write(options.runs, options.out, options.force))
        return
    for folder in options.runs:
        page.require_result(folder)
    with watch.make_server(options.runs, options.port) as server:
        print(f"http://{watch.ADDRESS}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def write_report(folder: Path, anew: bool) -> list[str]:
    """Writes the page of a folder after a run or a comparison, and returns its name; a failure is a warning.

    Args:
        folder: The folder.
        anew: Write the page even if there is one.
    """
    from evoprune.figures import drawing

    name = "report.html"
    try:
        from evoprune.report import page

        name = page.NAME
        if anew or not (folder / name).exists():
            page.write([folder])
    except Exception as error:  # noqa: BLE001 - the result is there
        drawing.warn(name, error)
        return []
    return [name]
