"""Files, and members of ``.tar.gz`` archives, that are read into memory and never unpacked to the disk."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.system.files import open_regular

CURE = "fetch it anew, or name another folder with --data-dir or EVOPRUNE_DATA"

# The most bytes that an archive may hold; CIFAR's have 184 million.
MOST_BYTES = 1 << 28


def fingerprint(path: Path) -> list[Any]:
    """Returns values that change when a file does: its path, size and times.

    Raises:
        InputError: It is missing.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; {CURE}.") from error
    return [os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def read_file(path: Path) -> bytes:
    """Returns a file's content.

    Raises:
        InputError: It cannot be read, or has more than :data:`MOST_BYTES`.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; {CURE}.") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES:,} bytes; {CURE}.")
    return content


def read_members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Returns members of a ``.tar.gz`` archive by the last part of their names; they are read in turn from the stream.

    Args:
        path: The archive.
        names: The names, in the order of the result.

    Raises:
        InputError: The archive cannot be read, is damaged, holds more than :data:`MOST_BYTES`, or lacks a member.
    """
    found: dict[str, bytes] = {}
    try:
        with open_regular(path) as packed, gzip.GzipFile(fileobj=packed) as stream:
            _collect(stream, frozenset(names), found)
    except Exception as error:  # tarfile raises nearly everything for a damaged file
        raise InputError(f"{path} is truncated or damaged ({error}); expected a whole .tar.gz archive; {CURE}.") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}; {CURE}.")
    return {name: found[name] for name in names}


def _collect(stream: Any, names: frozenset[str], found: dict[str, bytes]) -> None:
    bounded: Any = _Bounded(stream)
    with tarfile.open(fileobj=bounded, mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in names or not member.isreg():
                continue
            if member.issparse() or member.size > MOST_BYTES or name in found:
                raise ValueError(f"{name} is there twice, or has an odd size")
            content = archive.extractfile(member)
            found[name] = b"" if content is None else content.read()
    while bounded.read(1 << 20):  # the checksum is at the end
        pass


class _Bounded:
    """A stream that ends in an error once it has given too many bytes, such as those of a gzip bomb."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, MOST_BYTES

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(min(size, 1 << 20))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
        return content
