"""Arrays in files, which are mapped into memory: processes share their pages, and only the parts in use are read."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.errors import InputError

# torch supports few operations on these types.
_WIDER = {"u2": "i4", "u4": "i8", "u8": "i8", "f12": "f8", "f16": "f8"}


class FileArray:
    """An array in a file, which is mapped into memory: processes on a machine share its pages, and only parts in use are read.

    Pickled, it is the name of the file.

    Args:
        array: The array, of numpy's.
        place: Where it lies.
        digest: Digest of its content, if that is known; else the file's path, size and time identify it.
    """

    def __init__(self, array: NDArray[Any], place: Place, digest: str | None = None) -> None:
        self.array, self.place, self.digest = array, place, digest
        self.shape = tuple(array.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def read(self, rows: Tensor) -> Tensor:
        """Returns the examples of some rows."""
        found = np.asarray(self.array[rows.numpy()])
        return torch.from_numpy(found.astype(_WIDER.get(found.dtype.str[1:], found.dtype.newbyteorder("=")), copy=False))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the examples."""
        return self.read(torch.arange(0)).dtype

    @property
    def named_by(self) -> str:
        """How the content is identified; empty for its digest."""
        return "" if self.digest else f"path, size and time of change of {self.place.path}"

    def identity(self) -> str:
        """Returns the digest of the content, or the place."""
        return self.digest or repr(self.place)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_file_array, (self.place, self.digest)


@dataclass(frozen=True)
class Place:
    """Where an array lies.

    Attributes:
        path: The file.
        size: Its size in bytes.
        changed: The time of its last change, in ns.
        offset: The array's first byte.
        shape: The array's shape.
        strides: The bytes from one element to the next, by dimension.
        dtype: The type of its numbers, as numpy writes it.
    """

    path: str
    size: int
    changed: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


def is_in_file(values: object) -> bool:
    """Tells whether an array's memory is a file's."""
    return isinstance(values, np.memmap) and values.filename is not None and _map_of(values) is not None


def file_array(values: np.memmap[Any, Any], where: str) -> FileArray:
    """Returns the array of a memory map, or of a part of one.

    Args:
        values: The memory map.
        where: Its name in messages.

    Raises:
        InputError: It holds no real numbers.
    """
    if values.dtype.kind not in "biuf":
        raise InputError(f"{where} are a memory map of the type {values.dtype}; expected real numbers.")
    path = Path(str(values.filename)).absolute()
    state = path.stat()
    whole = np.frombuffer(_map_of(values) or b"", np.uint8)  # numpy's own offset is that of the map, not of the part
    begin = values.ctypes.data - whole.ctypes.data
    begin += values.offset - values.offset % mmap.ALLOCATIONGRANULARITY
    place = Place(str(path), state.st_size, state.st_mtime_ns, begin, values.shape, values.strides, values.dtype.str)
    return FileArray(values, place)


def _map_of(values: Any) -> mmap.mmap | None:
    """Returns the map whose memory an array is, or a part of."""
    while isinstance(values, np.ndarray):
        values = values.base
    return values if isinstance(values, mmap.mmap) else None


def open_file_array(place: Place, digest: str | None = None) -> FileArray:
    """Opens an array that another process has named.

    Raises:
        InputError: The file is not there, or is another one.
    """
    cure = "expected it at the same path on every host, unchanged while it is used; or give tensors, which travel"
    try:
        state = Path(place.path).stat()
        if (state.st_size, state.st_mtime_ns) != (place.size, place.changed):
            raise InputError(f"the data file {place.path} has changed since it was opened; {cure}.")
        bytes_ = np.memmap(place.path, np.uint8, "r")
    except OSError as error:
        raise InputError(f"the data file {place.path} cannot be opened: {error}; {cure}.") from error
    array: NDArray[Any] = np.ndarray(place.shape, place.dtype, bytes_, place.offset, place.strides)
    return FileArray(array, place, digest)
