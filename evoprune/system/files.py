"""Files: written whole or not at all, without following symbolic links, and read as if a stranger had written them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from evoprune.errors import InputError

# 0 if the system lacks them
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# Folders in those of runs and comparisons.
_FOLDERS = ("checkpoint", "hall_of_fame", "cells")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file's content: after a crash the file has the old content or the new one.

    The new content is first written to a temporary file, whose name nobody can foresee and which is removed after an error. A
    link in the file's place is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _PLAIN, 0o666)
    try:
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_temporaries(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a run's folder; nobody else may write there meanwhile."""
    for place in (folder, *(folder / name for name in _FOLDERS)):
        for path in place.glob(".*.tmp" if place == folder else "**/.*.tmp"):
            if re.search(r"\.[0-9a-f]{8}\.tmp$", path.name):
                path.unlink(missing_ok=True)


def remove_made(folder: Path, made: Sequence[Path]) -> None:
    """Removes the folders that a run made which could not begin, as far as they are empty but for its lock.

    Args:
        folder: The run folder.
        made: Folders that were not there before, the innermost first.
    """
    (folder / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for path in made:
            path.rmdir()


def append(path: Path, content: bytes) -> None:
    """Appends to a file, all or nothing; the content is on disk when this returns.

    Raises:
        OSError: The content cannot be written whole, such as on a full disk; the file is cut back to its old length.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK | _NO_WAIT | _PLAIN, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):  # if that fails, too, a torn row is left
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line without an end, in place, for which a full disk has room; a missing file stays missing."""
    try:
        descriptor = os.open(path, os.O_RDWR | _NO_LINK | _NO_WAIT | _PLAIN)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to be read.

    Raises:
        OSError: The file cannot be read, or is no regular file: reading from a pipe would never end.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | _NO_WAIT | _PLAIN), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no regular file")
    return file


def read_bytes(path: Path) -> bytes:
    """Returns a file's content; see :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def require_own(folder: Path) -> None:
    """Checks that no link in the folder of a run or comparison leads out of it, before anything is read or written there.

    Of the folders within it, only those that evoprune makes are searched. The folder itself may be a link.

    Raises:
        InputError: A symbolic link leads out of it, or an entry is neither a file nor a folder.
    """
    places = [folder]
    top = os.path.realpath(folder)
    while places:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(places.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if os.path.commonpath([top, target]) != top:
                        raise InputError(f"{entry.path} is a symbolic link to {target}, outside {folder}; remove the link.")
                elif entry.is_dir():
                    places += [Path(entry.path)] * (Path(entry.path).parent != folder or entry.name in _FOLDERS)
                elif not entry.is_file():
                    raise InputError(f"{entry.path} is neither a file nor a folder; remove it.")


def plain_name(name: str, where: str) -> str:
    """Returns a name that was read, provided that it can only name a file in the folder in which it is used.

    Args:
        name: The name.
        where: The source of the name, for the message.

    Raises:
        InputError: The name is empty, hidden or long, or holds more than letters, digits, spaces and ``._+=,()@-``.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+=,()@-][\w .+=,()@-]{0,199}", name):
        raise InputError(f"{where} names a file {name!r}; expected a plain name of letters, digits, dots and dashes.")
    return name


def _write_all(descriptor: int, content: bytes) -> None:
    """Writes all bytes: a single write may take fewer, without an error, if a disk or a quota is almost full."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
