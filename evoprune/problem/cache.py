"""Decoded arrays: each data set is decoded once, kept as ``.npy`` files, and shared by processes as memory maps."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from evoprune.errors import InputError
from evoprune.system.files import open_regular, write_atomically

# Changes whenever decoding or the files change.
_VERSION = 1
_INDEX = "index.json"
_CURE = "name a folder on a disk with room, that can be written, with the environment variable EVOPRUNE_CACHE"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Kept:
    """A data set in the cache.

    Attributes:
        arrays: Its arrays by name: copy-on-write memory maps, whose pages the processes of a machine share.
        facts: The JSON values that were kept with them.
    """

    arrays: Arrays
    facts: dict[str, Any]


class Writer:
    """Writes arrays into a folder of the cache, piece by piece.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, list[Any]] = {}

    @contextmanager
    def array(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> Iterator[Callable[[NDArray[Any]], None]]:
        """Gives a function that writes the next values of an array, in C order; an array that is there is written anew.

        Args:
            name: Its name.
            kind: The type of its values.
            shape: Its shape.

        Raises:
            InputError: The disk has no room for the array.
        """
        values, content = np.dtype(kind), hashlib.sha256()
        size = values.itemsize * int(np.prod(shape, dtype=np.int64))
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise InputError(f"{self._folder.parent} has room for {free:,} bytes, and the data take {size:,}; {_CURE}.")
        path = self._folder / f"{name}.npy"
        with path.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(values), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            content.update(path.read_bytes())

            def add(piece: NDArray[Any]) -> None:
                packed = np.ascontiguousarray(piece, values).reshape(-1).view(np.uint8).data
                file.write(packed)
                content.update(packed)

            yield add
        self._files[name] = [path.stat().st_size, content.hexdigest()]

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Writes a whole array."""
        with self.array(name, array.dtype.type, array.shape) as add:
            add(array)

    def load(self) -> Arrays:
        """Returns the arrays that were written."""
        return {name: _open_array(self._folder / f"{name}.npy") for name in self._files}

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Writes the index of the arrays, and facts beside them."""
        index = {"arrays": self._files, "facts": dict(facts)}
        write_atomically(self._folder / _INDEX, json.dumps({**index, "sum": _sum(index)}).encode())


def cached(kind: str, source: Any, decode: Callable[[Writer], dict[str, Any]]) -> Kept:
    """Returns arrays from the cache, and decodes them first unless they are there whole.

    The cache is the folder that ``EVOPRUNE_CACHE`` names, else the user's folder for caches. It may be removed at any time.
    While one process decodes, others wait for it. Damaged arrays are decoded again.

    Args:
        kind: The kind of source, a plain word.
        source: The files that the arrays are decoded from, such as their names, sizes and times, as JSON values.
        decode: Writes the arrays, and returns facts to be kept with them.

    Warns:
        UserWarning: The cache holds other files than were written.

    Raises:
        InputError: The cache cannot be written; and whatever ``decode`` raises.
    """
    key = hashlib.sha256(json.dumps([_VERSION, kind, source]).encode()).hexdigest()[:32]
    top = cache_folder() / "decoded"
    folder = top / f"{kind}-{key}"
    found = _open(folder)
    if found is not None:
        return found
    try:
        top.mkdir(parents=True, exist_ok=True)
        with FileLock(top / f".{folder.name}.lock"):
            return _open(folder) or _make(folder, decode)
    except OSError as error:
        raise InputError(f"cannot keep decoded data in {top}: {error}; {_CURE}.") from error


def cache_folder() -> Path:
    """Returns the folder of downloaded and decoded data."""
    given = os.environ.get("EVOPRUNE_CACHE")
    if given:
        return Path(os.path.abspath(os.path.expanduser(given)))  # noqa: PTH100, PTH111
    import pooch  # heavy

    return Path(pooch.os_cache("evoprune"))


def _make(folder: Path, decode: Callable[[Writer], dict[str, Any]]) -> Kept:
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # of processes that were killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    if os.path.lexists(folder):
        warnings.warn(
            f"{folder} is damaged, or of an earlier version of evoprune: its files differ from those that were written; the "
            f"data are decoded again.",
            stacklevel=4,
        )
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        writer = Writer(temporary)
        writer.finish(decode(writer))
        _remove(folder)  # a damaged one
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _open(folder)
    if found is None:
        raise OSError(f"{folder} cannot be read back")
    return found


def _open(folder: Path) -> Kept | None:
    """Returns the arrays of a folder, or None if it is missing or damaged."""
    try:
        with open_regular(folder / _INDEX) as file:
            index = json.loads(file.read())
        if index.pop("sum") != _sum(index):
            return None
        arrays = {}
        for name, (size, digest) in index["arrays"].items():
            path = folder / f"{Path(name).name}.npy"
            with open_regular(path) as file:
                content = np.memmap(file, np.uint8, "r")
            if len(content) != size or hashlib.sha256(content.data).hexdigest() != digest:
                return None
            arrays[name] = _open_array(path)
        return Kept(arrays, dict(index["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _sum(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Removes a folder, or a file or link in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_array(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array
