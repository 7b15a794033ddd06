"""The export of a run into files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoprune.errors import InputError, look_up
from evoprune.export.formats import EXPORTS
from evoprune.export.trained import Means, trained
from evoprune.options import make, takes
from evoprune.runs.result import Result
from evoprune.runs.tensors import pack_tensors
from evoprune.system.files import read_bytes, write_atomically


@dataclass(frozen=True)
class Exported:
    """Files that were written.

    Attributes:
        files: Their paths.
        facts: Findings about them, such as a measured speed, by format and name.
    """

    files: tuple[Path, ...]
    facts: Mapping[str, Mapping[str, Any]]


@takes(Means)
def write(
    source: str | os.PathLike[str] | Result,
    to: str | Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    test_data: bool = False,
    force: bool = False,
    **means: Any,
) -> Exported:
    """Writes the trained network of a run in one format or several, for programs that do not know evoprune.

    All contents are made first, and then each file is written whole. A file that is there already with the same content stays.

    Args:
        source: A run folder, or the result of a method.
        to: Names of formats, see :data:`evoprune.export.formats.EXPORTS`.
        out: The folder of the files; None for one beside the run folder, with ``-export`` behind its name.
        test_data: Write the prepared test set, too: ``test.safetensors`` with ``inputs`` and ``targets``.
        force: Replace files that have another content.
        **means: Any field of :class:`evoprune.export.trained.Means`: ``problem``, ``model``, ``example`` or ``data_dir``.

    Returns:
        The paths, and facts such as the measured speed.

    Raises:
        InputError: An unknown format; a run that is not finished, or not intact; a format that needs the module or the data
            where they cannot be made again; or other files are in the way.
    """
    if not isinstance(to, Sequence):
        raise InputError(f"to is {to!r}; expected some of: {', '.join(EXPORTS)}.")
    names = [to] if isinstance(to, str) else list(to)
    formats = {name: look_up("format", name, EXPORTS) for name in names}
    if not formats and not test_data:
        raise InputError(f"to is empty; expected some of: {', '.join(EXPORTS)}.")
    if out is None and isinstance(source, Result):
        raise InputError("out is None; expected a folder, since a result has none.")
    found = trained(source, make(Means, means))
    folder = _beside(Path(found.name)) if out is None else Path(out)
    made = {name: form.make(found) for name, form in formats.items()}
    contents = {file: content for files in made.values() for file, content in files.contents.items()}
    if test_data:
        contents["test.safetensors"] = pack_tensors(found.test_set())
    _require_free(folder, contents, force)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return Exported(tuple(folder / name for name in contents), {name: files.facts for name, files in made.items()})


def _beside(run: Path) -> Path:
    """Returns the folder for the files of a run that is given without one."""
    named = run if run.name not in ("", "..") else run.resolve()
    return named.with_name(f"{named.name}-export")


def _require_free(folder: Path, contents: Mapping[str, bytes], force: bool) -> None:
    """Refuses to replace files of other contents."""
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"cannot write to {folder}: {path} is no folder; choose another --out.")
            break
    for name, content in contents.items():
        path = folder / name
        if path.is_dir():
            raise InputError(f"{path} is a folder; remove it, or choose another --out.")
        if path.exists() and not force and read_bytes(path) != content:
            raise InputError(f"{path} is there already, with another content; choose another --out, or --force to replace it.")
