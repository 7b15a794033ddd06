"""Pages: chapters become HTML, which is written without losing a file of somebody else's."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from evoprune.errors import InputError
from evoprune.report import run
from evoprune.report.blocks import Cell, Chapter, Table
from evoprune.report.size import Budget, fit
from evoprune.runs.folder import GENERATOR, is_page
from evoprune.system.files import require_own, write_atomically

NAME = "report.html"
# Bytes of figures that a page holds at most; the page stays below 2 MB.
MOST_FIGURES = 1_300_000


def chapter_of(folder: Path, budget: Budget | None = None) -> Chapter:
    """Returns the chapter of a run or a comparison.

    Args:
        folder: Its folder.
        budget: The room for figures; None for that of a page alone.

    Raises:
        InputError: The folder holds neither, or a link leads out of it.
    """
    folder = folder.absolute()
    require_own(folder)
    room = Budget(MOST_FIGURES) if budget is None else budget
    if require_result(folder) == "run":
        return run.chapter(folder, room)
    from evoprune.report import comparison  # with statistics that take a second to import

    return comparison.chapter(folder, room)


def require_result(folder: Path) -> str:
    """Returns whether a folder holds a ``run`` or a ``comparison``.

    Raises:
        InputError: It holds neither.
    """
    if (folder / "cells.csv").exists() or (folder / "compare.json").exists():
        return "comparison"
    if (folder / "config.json").exists():
        return "run"
    raise InputError(
        f"{folder} holds neither a run nor a comparison; expected a folder with config.json or compare.json. "
        f"evoprune list {folder} shows those below it."
    )


def render(folders: Sequence[Path], watched: str = "") -> str:
    """Returns the page of runs and comparisons.

    Args:
        folders: Their folders.
        watched: The version of a page that is refreshed while it is looked at; empty for a file.

    Raises:
        InputError: A folder holds neither.
    """
    budget = Budget(MOST_FIGURES)
    chapters = fit([chapter_of(folder, budget) for folder in folders])
    summary = _summary(chapters) if len(chapters) > 1 else None
    style, script = _part("page.css"), _part("page.js")
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _digest(style),
        "script-src": _digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        **({"connect-src": "'self'"} if watched else {}),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html.j2")).render(
        chapters=chapters,
        summary=summary,
        title=chapters[0].title if len(chapters) == 1 else f"{len(chapters)} results",
        generator=GENERATOR,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=Markup(style),
        script=Markup(script),
        watched=watched,
    )


def write(folders: Sequence[Path], out: Path | None = None, force: bool = False) -> Path:
    """Writes the page of runs and comparisons, and returns its path.

    Args:
        folders: Their folders.
        out: The file; None for ``report.html`` in the folder, or, for several, in the working folder.
        force: Replace a file that is no page of evoprune's.

    Raises:
        InputError: A folder holds neither, or the file is somebody else's.
    """
    path = out or (folders[0].absolute() / NAME if len(folders) == 1 else Path(NAME))
    require_free(path, force)
    write_atomically(path, render(folders).encode(errors="replace"))
    return path


def require_free(path: Path, force: bool) -> None:
    """Checks that a page may be written to a path.

    Raises:
        InputError: There is something else than a page of evoprune's, or no folder for it.
    """
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.absolute().parent}; make it, or choose another --out.")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; choose a file as --out, such as {path / NAME}.")
    if (path.exists() or path.is_symlink()) and not force and not is_page(path):
        raise InputError(f"{path} is no page that evoprune wrote; choose another --out, or --force to replace it.")


def _summary(chapters: Sequence[Chapter]) -> Table:
    names = list(dict.fromkeys(name for chapter in chapters for name, _, _ in chapter.tiles))
    rows = []
    for chapter in chapters:
        values = {name: value for name, value, _ in chapter.tiles}
        rows.append([Cell(chapter.title), Cell(Path(chapter.folder).name), *(Cell(values.get(name, "—")) for name in names)])
    return Table("The results of this page, each of one run or comparison.", ["result", "folder", *names], rows)


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
