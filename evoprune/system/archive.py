"""Arrays in ``.npz`` files that a stranger may have written."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

# The bytes that numpy.save writes before an array's values: version, length of the text, and the text.
_MAGIC = re.compile(rb"\x93NUMPY(?:\x01\x00(..)|[\x02\x03]\x00(....))", re.DOTALL)
_HEADER = re.compile(
    rb"\{'descr': '([<>|]?[biuf]\d{1,2})', 'fortran_order': False, 'shape': \(((?:\d{1,19}, ?)*\d{0,19})\), \} *\n"
)
_LONGEST_HEADER = 1000


class Archive:
    """The arrays of an ``.npz`` file that may be damaged or hostile: each is read only if it has the expected size.

    NumPy's own reader takes as much memory as the file asks for, and raises any error that the libraries under it raise.

    Args:
        file: The file.

    Attributes:
        sizes: Bytes of each array's file, its header included, by name in the order of the file.

    Raises:
        ValueError: It is no archive, or has members that ``numpy.savez`` does not write: encrypted, compressed by an unusual
            method, or two of the same name.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
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


def unpack_arrays(packed: bytes) -> dict[str, NDArray[Any]]:
    """Returns the arrays of the content of an ``.npz`` file, which take no more memory than the file.

    Raises:
        ValueError: The content is damaged.
    """
    archive = Archive(io.BytesIO(packed))
    if sum(archive.sizes.values()) > len(packed):
        raise ValueError("its arrays have more bytes than the file")
    return {name: archive.read(name, size) for name, size in archive.sizes.items()}


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
