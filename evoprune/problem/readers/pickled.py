"""Pickles of a stranger: read only as far as they hold numbers, text, lists, dictionaries and arrays of bytes."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Instructions that make plain values, and those by which numpy pickles an array; see the module pickletools.
_ADMITTED = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND "
    "APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET "
    "LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")

# A batch of CIFAR takes five instructions or fewer for an image of this size, and some dozen more.
_IMAGE_BYTES, _MOST_PER_IMAGE, _MOST_BESIDES = 3072, 16, 2000


def read_pickle(content: bytes) -> Any:
    """Returns the values of a pickle, in which text of Python 2 is bytes and each array has the type uint8.

    Nothing is imported, and none of the functions that a pickle names is called: for the few that numpy's arrays need, others
    of this module stand in.

    Args:
        content: The pickle.

    Raises:
        ValueError: It wants anything else, is damaged, or would take far more memory than its size.
    """
    try:
        _check(content)
        return _plain(_Reader(content).load())
    except Exception as error:  # a damaged pickle raises nearly everything
        raise ValueError(str(error) or type(error).__name__) from error


def _check(content: bytes) -> None:
    """Checks all instructions before any is obeyed."""
    admitted = frozenset(_ADMITTED.split())
    most = _MOST_BESIDES + _MOST_PER_IMAGE * (len(content) // _IMAGE_BYTES)
    for count, (instruction, argument, at) in enumerate(pickletools.genops(content)):
        name = instruction.name
        if name not in admitted:
            raise ValueError(f"it has the instruction {name} at byte {at}; expected plain values and arrays alone")
        if name == "GLOBAL":
            _require_known(*str(argument).split(" ", 1))
        # a table of that length would be made
        if count > most or (name in _PUTS and int(argument or 0) > most):
            raise ValueError(f"it has more than {most:,} instructions for {len(content):,} bytes")


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._left = len(content)

    def find_class(self, module: str, name: str) -> Any:
        return getattr(self, _require_known(module, name))

    def array(self, *arguments: object) -> _Array:
        """Stands for numpy's ``_reconstruct``."""
        return _Array()

    def kind(self, name: str | bytes, *arguments: object) -> _Kind:
        """Stands for ``numpy.dtype``."""
        return _Kind(name)

    # stands for numpy.ndarray, which is passed on but never called
    type_of_arrays = "ndarray"

    def encode(self, text: str, codec: str | bytes) -> bytes:
        """Stands for ``_codecs.encode``, by which Python 3 pickles bytes for Python 2."""
        self._left -= len(text)
        if codec not in ("latin1", b"latin1") or self._left < 0:
            raise ValueError("it encodes text otherwise than bytes are pickled")
        return text.encode("latin1")


_STAND_INS = {
    ("numpy", "ndarray"): "type_of_arrays",
    ("numpy", "dtype"): "kind",
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("_codecs", "encode"): "encode",
}


def _require_known(module: str, name: str) -> str:
    if (module, name) not in _STAND_INS:
        raise ValueError(f"it wants {module}.{name}; expected plain values and arrays alone")
    return _STAND_INS[module, name]


class _Kind:
    def __init__(self, name: str | bytes) -> None:
        self.is_byte = name in ("u1", b"u1", "|u1", b"|u1", "B", b"B")

    def __setstate__(self, state: object) -> None:
        """Takes the byte order and the like, which a byte does not have."""


class _Array:
    values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        if not isinstance(kind, _Kind) or not kind.is_byte or not isinstance(content, bytes):
            raise ValueError("it has an array of another type than uint8")
        if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) != len(content):
            raise ValueError(f"it has an array of {len(content):,} bytes for the shape {shape}")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _plain(value: Any) -> Any:
    """Returns the top level of values with arrays in the place of those that stand for them."""
    if not isinstance(value, dict):
        return value
    return {name: each.values if isinstance(each, _Array) else each for name, each in value.items()}
