"""Files, written so that nothing is torn and no symbolic link is followed, and read as if a stranger had written them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import secrets
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError

# 0 where the system lacks them
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# What numpy.save writes before an array's values: version, length of the text, and the text.
_MAGIC = re.compile(rb"\x93NUMPY(?:\x01\x00(..)|[\x02\x03]\x00(....))", re.DOTALL)
_HEADER = re.compile(
    rb"\{'descr': '([<>|]?[biuf]\d{1,2})', 'fortran_order': False, 'shape': \(((?:\d{1,19}, ?)*\d{0,19})\), \} *\n"
)
_LONGEST_HEADER = 1000
# Folders in those of runs and comparisons.
_FOLDERS = ("checkpoint", "hall_of_fame", "cells")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file's content: after a crash it is the old or the new one.

    What is written first has a name that nobody can foresee, and is gone after an error. A link in the file's place is
    replaced, not followed.
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
    """Removes what killed processes left in a run's folder of files that they were writing; nobody else may write there."""
    for place in (folder, *(folder / name for name in _FOLDERS)):
        for path in place.glob(".*.tmp" if place == folder else "**/.*.tmp"):
            if re.search(r"\.[0-9a-f]{8}\.tmp$", path.name):
                path.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Appends to a file, all or nothing; it is on disk when this returns.

    Raises:
        OSError: It cannot be written whole, such as on a full disk; the file is cut back to what it was.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK | _NO_WAIT | _PLAIN, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):  # where that fails, too, a torn row is left
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line without an end, in place, for which a full disk has room; a missing file stays so."""
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


def read_bytes(path: Path) -> bytes:
    """Returns a file's content.

    Raises:
        OSError: It cannot be read, or is no regular file: one that is a pipe would never end.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | _NO_WAIT | _PLAIN), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read()


def require_own(folder: Path) -> None:
    """Checks that nothing in the folder of a run or comparison leads out of it, before anything is read or written there.

    Of folders within it, only those that evoprune makes are looked into. The folder itself may be a link.

    Raises:
        InputError: A symbolic link leads out of it, or something is neither a file nor a folder.
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
    """Returns a name that was read, if it names a file in the folder where it is used and nothing else.

    Args:
        name: The name.
        where: Where it was read, for the message.

    Raises:
        InputError: It is empty, hidden or long, or holds more than letters, digits, spaces and ``._+=,()@-``.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+=,()@-][\w .+=,()@-]{0,199}", name):
        raise InputError(f"{where} names a file {name!r}; expected a plain name of letters, digits, dots and dashes.")
    return name


class Archive:
    """The arrays of an ``.npz`` file that may be damaged or hostile: each is read only if its size is what is expected.

    NumPy's own reader takes whatever memory the file asks for, and raises whatever the libraries under it raise.

    Args:
        content: The file's content.

    Attributes:
        sizes: Bytes of each array's file, its header included, by name in the order of the file.

    Raises:
        ValueError: It is no archive, or has members that ``numpy.savez`` does not write: encrypted, compressed by an unusual
            method, or two of the same name.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except Exception as error:  # zipfile raises nearly everything for a damaged file
            raise ValueError(str(error) or type(error).__name__) from error
        self.sizes: dict[str, int] = {}
        for info in self._zip.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self.sizes or name == info.filename:
                raise ValueError(f"{info.filename!r} is there twice" if name in self.sizes else f"{name!r} is no array")
            if info.flag_bits & ~0x0808 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # bits 3 and 11: sizes behind the data, and names in UTF-8
                raise ValueError(f"{name!r} is encrypted, or compressed by a method that numpy does not write")
            self.sizes[name] = info.file_size

    def read(self, name: str, most: int) -> NDArray[Any]:
        """Returns an array.

        Args:
            name: Its name.
            most: The most bytes that its values may have.

        Raises:
            ValueError: There is no such array, it has more bytes, or it is damaged.
        """
        if name not in self.sizes:
            raise ValueError(f"{name!r} is missing")
        if self.sizes[name] > most + _LONGEST_HEADER:
            raise ValueError(f"{name!r} has {self.sizes[name]} bytes, more than it may have")
        try:
            with self._zip.open(f"{name}.npy") as file:
                return _parse_npy(file.read(most + _LONGEST_HEADER + 1))
        except Exception as error:
            raise ValueError(f"{name!r} is damaged: {error}") from error


def _parse_npy(content: bytes) -> NDArray[Any]:
    """Returns the array of a ``.npy`` file as ``numpy.save`` writes it of numbers; nothing of it is evaluated."""
    magic = _MAGIC.match(content)
    if magic is None:
        raise ValueError("it is no array")
    (length,) = struct.unpack("<H", magic[1]) if magic[1] else struct.unpack("<I", magic[2])
    header = _HEADER.fullmatch(content, magic.end(), magic.end() + length)
    if header is None or length > _LONGEST_HEADER:
        raise ValueError("it is no array of numbers")
    kind = np.dtype(header[1].decode())
    shape = tuple(int(number) for number in header[2].split(b",") if number.strip())
    values = memoryview(content)[header.end() :]
    if math.prod(shape) * kind.itemsize != len(values):
        raise ValueError(f"it has {len(values)} bytes for the shape {shape} of {kind}")
    return np.frombuffer(values, kind).reshape(shape)


def _write_all(descriptor: int, content: bytes) -> None:
    """Writes all bytes: a single write may take fewer, without an error, where a disk or a quota is almost full."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
