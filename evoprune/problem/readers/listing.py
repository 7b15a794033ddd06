"""The image files of a folder or a zip, by relative name, and the classes and parts that these names state."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evoprune.errors import InputError
from evoprune.problem.data import PARTS
from evoprune.system.files import open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

# The most bytes that the file of one image may have.
MOST_BYTES = 1 << 26

_PART_NAMES = {name: name for name in PARTS} | {
    "training": "train", "val": "validation", "valid": "validation", "testing": "test",
}  # fmt: skip
_LAYOUT = "expected CLASS/FILE, or train/CLASS/FILE and test/CLASS/FILE (and val/ or validation/)"


class Images(Protocol):
    """Image files that can be read.

    Attributes:
        where: The folder or zip, for messages.
        files: Numbers that change with a file's content, by the file's name, relative to the folder.
    """

    where: Path
    files: dict[str, list[int]]

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            Exception: It cannot be read; for a zip that is damaged nearly any error.
        """


class _Folder:
    def __init__(self, where: Path) -> None:
        self.where = where
        self.files: dict[str, list[int]] = {}
        top = where.stat()
        for name, found in _walk(where, frozenset({(top.st_dev, top.st_ino)})):
            self.files[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]

    def read(self, name: str) -> bytes:
        with open_regular(self.where / name) as file:
            return file.read(MOST_BYTES + 1)


class _Zip:
    def __init__(self, where: Path, file: zipfile.ZipFile) -> None:
        self.where, self._zip = where, file
        self.files: dict[str, list[int]] = {}
        for info in file.infolist():
            parts = info.filename.split("/")
            if info.is_dir() or not _is_image(parts[-1]) or any(part.startswith(("__MACOSX", "._")) for part in parts):
                continue
            if ".." in parts or "" in parts or info.filename in self.files:
                raise InputError(
                    f"{where} has a file named {info.filename!r}{' twice' if info.filename in self.files else ''}; {_LAYOUT}."
                )
            self.files[info.filename] = [info.file_size, info.CRC]

    def read(self, name: str) -> bytes:
        with self._zip.open(name) as file:
            return file.read(MOST_BYTES + 1)


@dataclass(frozen=True)
class Layout:
    """The images of each part.

    Attributes:
        classes: Names of the classes, sorted: those of the training part.
        parts: Names of the files and the numbers of their classes, by part, sorted by class and file.
    """

    classes: tuple[str, ...]
    parts: dict[str, list[tuple[str, int]]]


@contextmanager
def open_images(path: Path) -> Iterator[Images]:
    """Opens a folder or a zip of images; nothing of a zip is unpacked to the disk.

    Links are followed, except to folders that they lie in.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    try:
        if path.is_dir():
            yield _Folder(path)
        elif path.is_file():
            with zipfile.ZipFile(path) as file:
                yield _Zip(path, file)
        else:
            raise InputError(f"there is no folder or zip of images {path}; {_LAYOUT} in it.")
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; expected a folder or a whole zip of images.") from error


def arrange(images: Images) -> Layout:
    """Returns the classes and parts that the names of files state.

    A folder that holds all others is passed over, as many zips have it.

    Raises:
        InputError: There are no images or only one class, a file lies at another depth, or a part has a class that the training
            part lacks.
    """
    paths = {name: name.split("/") for name in sorted(images.files)}
    if not paths:
        raise InputError(f"{images.where} has no images ({', '.join(SUFFIXES)}); {_LAYOUT}.")
    while len(firsts := {path[0] for path in paths.values()}) == 1 and min(map(len, paths.values())) > 2:
        if firsts <= _PART_NAMES.keys():
            break
        paths = {name: path[1:] for name, path in paths.items()}
    for first in sorted(firsts - _PART_NAMES.keys()):
        if first.lower() in _PART_NAMES:
            raise InputError(f"{images.where} has the folder {first}; expected small letters, {first.lower()}: rename it.")
    has_parts = "train" in {_PART_NAMES.get(name) for name in firsts} or firsts <= _PART_NAMES.keys()
    found: dict[str, dict[str, list[str]]] = {}
    for name, path in paths.items():
        part = _PART_NAMES.get(path[0]) if has_parts else "train"
        if part is None or len(path) != 2 + has_parts:
            raise InputError(f"{images.where} has the image {name}; {_LAYOUT}.")
        found.setdefault(part, {}).setdefault(path[-2], []).append(name)
    return _numbered(images.where, found)


def _numbered(where: Path, found: dict[str, dict[str, list[str]]]) -> Layout:
    classes = tuple(sorted(found.get("train", {})))
    if len(classes) < 2:
        raise InputError(
            f"{where} has the classes {', '.join(classes) or 'none'} to train on; expected two at least: {_LAYOUT}."
        )
    for part, names in found.items():
        unknown = sorted(names.keys() - set(classes))
        if unknown:
            raise InputError(
                f"{where}: {part} has the class {unknown[0]!r}, which train has not; expected {', '.join(classes)}."
            )
    parts = {
        part: [(name, number) for number, label in enumerate(classes) for name in found[part].get(label, [])]
        for part in PARTS
        if part in found
    }
    return Layout(classes, parts)


def _walk(folder: Path, above: frozenset[tuple[int, int]], prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            found = entry.stat()
            place = (found.st_dev, found.st_ino)
            if stat.S_ISDIR(found.st_mode) and place not in above:
                yield from _walk(folder / entry.name, above | {place}, f"{prefix}{entry.name}/")
            elif not stat.S_ISDIR(found.st_mode) and _is_image(entry.name):
                yield prefix + entry.name, found


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
