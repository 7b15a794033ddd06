"""A walk through a value, whose pieces enter a digest one by one; the caller says how each kind of value is taken apart."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import InputError
from evoprune.problem.usercode import key_of, text_of

PLAIN = (type(None), bool, int, str, bytes, type(...), type(NotImplemented))
BUILTINS = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)  # fmt: skip
WRAPPED = (functools.partial, functools.partialmethod, staticmethod, classmethod, property, functools.cached_property)
# Tells whether a value is of the kind, and adds it to the digest.
Kind: TypeAlias = tuple[Callable[[Any], bool], Callable[["Walk", Any], None]]


class UnidentifiedError(InputError):
    """A value of the user's that cannot be told apart from others."""


class Walk:
    """A walk through values, each of which enters the digest as its kind and its parts.

    An object that is met again enters as its number, so that cycles end, and shared objects differ from copies.
    """

    def __init__(self, kinds: Sequence[Kind], ignore: Sequence[str], known: Mapping[int, str]) -> None:
        self.kinds = kinds
        self.digest = hashlib.sha256()
        self.ignore, self.known = tuple(ignore), known
        self.numbers: dict[tuple[str, int], int] = {}
        self.kept: list[Any] = []  # so that no other object gets its id
        self.path: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self.texts: dict[str, str] = {}

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Names the value that is added inside, for the path in errors and ignored names."""
        self.path.append(name)
        try:
            yield
        finally:
            self.path.pop()

    def token(self, *parts: object) -> None:
        """Adds words to the digest, each with its length, so that no two sequences are alike."""
        for part in parts:
            content = str(part).encode("utf-8", "surrogatepass")
            self.digest.update(len(content).to_bytes(8, "big"))
            self.digest.update(content)

    def text(self, code: types.CodeType) -> str:
        """Returns the text of a function's code, and keeps it."""
        found = self.texts[key_of(code)] = text_of(code)
        return found

    def sharing(self, tensor: Tensor) -> list[tuple[int, int]]:
        """Returns the numbers of the earlier tensors that share memory with this one, and its distance from each.

        A change of one of them in place changes the other.
        """
        size = tensor.element_size()
        begin = tensor.untyped_storage().data_ptr() + int(tensor.storage_offset()) * size
        reach = sum((int(n) - 1) * int(stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        end = begin + size * reach if tensor.numel() else begin
        shared = [(i, begin - start) for i, (start, stop) in enumerate(self.ranges) if start < end and begin < stop]
        self.ranges.append((begin, end))
        return [*shared, (-1, 0)] if tensor.numel() > reach else shared  # the last: some of its elements share memory

    def is_new(self, kind: str, thing: object) -> bool:
        """Numbers an object and returns True; one that has a number already enters the digest as that."""
        key = (kind, id(thing))
        if key in self.numbers:
            self.token("again", self.numbers[key])
            return False
        self.numbers[key] = len(self.numbers)
        self.kept.append(thing)
        return True

    def each(self, values: Mapping[str, Any], ordered: bool = False) -> None:
        """Adds values by name, such as attributes, in the order of their names unless their own order matters."""
        names = [name for name in (values if ordered else sorted(values)) if not self.ignores(name)]
        self.token("names", len(names))
        for name in names:
            self.token(name)
            with self.at(name):
                self.add(values[name])

    def ignores(self, name: str) -> bool:
        """Tells whether the user has said that an attribute or global of this name does not count."""
        path = ".".join([*self.path, name])
        return any(path == given or path.endswith(f".{given}") for given in self.ignore)

    def add(self, thing: Any) -> None:
        """Adds a value to the digest."""
        if type(thing) in PLAIN:
            self.token(type(thing).__name__, repr(thing))
        elif type(thing) in (float, complex):
            self.token(type(thing).__name__, thing.hex() if isinstance(thing, float) else (thing.real.hex(), thing.imag.hex()))
        elif id(thing) in self.known:
            self.token("known", self.known[id(thing)])
        elif isinstance(thing, torch.device):
            self.token("device")  # the device decides no result
        elif isinstance(thing, (torch.dtype, torch.layout, torch.memory_format, np.dtype, types.GenericAlias, types.UnionType)):
            self.token(type(thing).__name__, repr(thing))
        else:
            add = next(add for fits, add in self.kinds if fits(thing))
            add(self, thing)

    def refuse(self, thing: object, reason: object = "") -> NoReturn:
        """Raises the error of a value that cannot be identified."""
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
        name = self.path[-1]
        why = f" ({reason})" if str(reason) else ""
        raise UnidentifiedError(
            f"{'.'.join(self.path)} is a {kind}, which cannot be told from another{why}, so neither a run folder (out=) nor "
            f"workers could know the problem again. Expected plain data and code; if it changes no training, leave it out by "
            f"Problem(ignore=({name!r},)), or name model and loss yourself: Problem(identity='my-net-1')."
        )
