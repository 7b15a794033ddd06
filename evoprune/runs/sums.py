"""Checksums: whatever a resume or a figure reads is compared with what evoprune wrote.

A JSON file that is rewritten carries its own checksum (:func:`seal`). Rows that are appended carry one each, which depends on
the rows before (:class:`Chain`). ``checksums.json`` has those of all other files of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.runs import records
from evoprune.system.files import read_bytes, write_atomically

FILE = "checksums.json"
KEY = "sha256"
# The column of a row's checksum.
CHECK = "check"


class DamageError(InputError):
    """A file differs from the one that evoprune wrote."""


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns JSON values with their checksum."""
    plain = records.as_json({key: value for key, value in content.items() if key != KEY})
    return {**plain, KEY: _digest_of(plain)}


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Reads the JSON object that :func:`seal` has made, without its checksum; None if there is no such file.

    Raises:
        DamageError: The file differs from the one that was written.
        InputError: The file cannot be read, or is no JSON object.
    """
    content = records.read_json(path)
    if content is None:
        return None
    found = content.pop(KEY, None)
    if found != _digest_of(content):
        raise DamageError(f"{path} differs from the file that evoprune wrote; restore it, or remove it.")
    return content


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON values with their checksum, atomically."""
    records.write_json(path, seal(content))


@contextmanager
def replacing(folder: Path, contents: Mapping[str, bytes]) -> Iterator[None]:
    """Enters the checksums of files that are replaced meanwhile; if the process is killed, both contents count as intact.

    Args:
        folder: The folder of a run or a comparison.
        contents: The new contents of files, by their path in the folder.
    """
    known = _known(folder)
    new = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    both = {name: [*_proper(known.get(name)), digest] for name, digest in new.items()}
    write_sealed(folder / FILE, {**known, **both})
    yield
    write_sealed(folder / FILE, {**known, **new})


def replace_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files with their checksums, each atomically, in the order in which they are given.

    Args:
        folder: The folder of a run or a comparison.
        contents: The contents, by path in the folder.
    """
    with replacing(folder, contents):
        for name, content in contents.items():
            write_atomically(folder / name, content)


def damaged(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Returns the files that differ from ``checksums.json`` or are missing, and that file itself if it is.

    Args:
        folder: The run folder.
        names: Paths of files in the folder; None for all that ``checksums.json`` has.
    """
    try:
        known = read_sealed(folder / FILE)
    except InputError:
        known = None
    if known is None:
        return [FILE]
    return [name for name in (known if names is None else names) if _digest(folder / name) not in _proper(known.get(name))]


def require_intact(folder: Path, *names: str) -> None:
    """Checks files of a run or a comparison before they are read.

    Args:
        folder: Its folder.
        names: Paths of files in the folder; without any, all that ``checksums.json`` has.

    Raises:
        DamageError: A file differs from the one that evoprune wrote.
    """
    if found := damaged(folder, names or None):
        raise DamageError(
            f"{', '.join(found)} in {folder} differs from what evoprune wrote, is missing, or is being written; the command of "
            f"the run makes it again."
        )


@dataclass
class Chain:
    """The checksums of a table's rows; each depends on the rows before, so a row that is missing or doubled is noticed.

    Attributes:
        last: The checksum of the last row; empty before the first.
    """

    last: str = ""

    def next(self, cells: Sequence[str]) -> str:
        """Returns the checksum of the next row.

        Args:
            cells: The row's cells as text, without the checksum.
        """
        text = json.dumps([self.last, *cells])
        self.last = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
        return self.last


def _known(folder: Path) -> dict[str, Any]:
    try:
        return read_sealed(folder / FILE) or {}
    except InputError:
        return {}


def _proper(known: str | list[str | None] | None) -> list[str | None]:
    """Returns the digests that a file may have; None stands for no file."""
    return known if isinstance(known, list) else [known]


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except OSError:
        return None


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode(errors="surrogatepass")).hexdigest()
