"""Registries: things by name, those that the package brings and those that a user adds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from evoprune.errors import InputError, letters, look_up
from evoprune.system import loading

T = TypeVar("T")


@dataclass(frozen=True)
class Own:
    """A thing of a user's in the place of a name, which it keeps wherever it travels.

    Attributes:
        name: Its name in records.
        thing: The thing, as the user gave it.
    """

    name: str
    thing: Any

    def __str__(self) -> str:
        return self.name


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name; a mapping that users add to by :meth:`register`.

    A name that the package brings always stands for the same thing. :meth:`find` takes a name or the thing itself.

    Args:
        kind: The kind in the singular, such as ``mutation``, for messages.
        built_in: The things that the package brings.
        adapt: Turns a thing from a user, such as a plain function, into an entry; None takes it as it is.
        families: Functions that make the entry of a name such as ``image-folder:PATH`` from the part behind the colon, by the
            part before it. The mapping's own names are those without a colon.
        takes_files: Names such as ``path/to/file.py:function`` stand for things in the user's files.
        meant: Names that users may expect, and those that they mean by them, which a message suggests.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, T],
        adapt: Callable[[Any], T] | None = None,
        families: Mapping[str, Callable[[str], T]] | None = None,
        takes_files: bool = False,
        meant: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.takes_files = takes_files
        self.families = dict(families or {})
        self._meant = {letters(name): other for name, other in (meant or {}).items()}
        self._built_in = dict(built_in)
        self._own: dict[str, T] = {}
        self._given: dict[str, Any] = {}
        self._adapt = adapt

    def __getitem__(self, name: str) -> T:
        return self._own[name] if name in self._own else self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self._own

    def __len__(self) -> int:
        return len(self._built_in) + len(self._own)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self)})"

    def is_built_in(self, name: str) -> bool:
        """Tells whether a name stands for the same thing in every process."""
        return name in self._built_in or (name not in self and name.partition(":")[0] in self.families)

    @property
    def own(self) -> dict[str, T]:
        """The entries that users have added, by name."""
        return dict(self._own)

    def register(self, name: str, thing: Any) -> Any:
        """Adds a thing under a name, and returns it as it was given.

        A definition that runs again, as a file does that is imported twice or a notebook's cell, replaces the earlier one.

        Raises:
            InputError: The name is empty, cannot be printed, or stands for another thing already.
        """
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InputError(f"the {self.kind} is to be registered as {name!r}; expected a printable name, such as 'mine'.")
        if name in self._built_in:
            raise InputError(f"{self.kind} {name!r} is built in; choose another name.")
        if name in self._given and not _is_same(self._given[name], thing):
            raise InputError(
                f"{self.kind} {name!r} is registered already, as {describe(self._given[name])}; choose another name for "
                f"{describe(thing)}."
            )
        self._own[name] = self._entry(thing)
        self._given[name] = thing
        return thing

    def find(self, value: Any) -> T:
        """Returns the entry of a name; a thing that is given itself is returned as an entry.

        Raises:
            InputError: The name is unknown; the message lists the known ones and the nearest.
        """
        if not isinstance(value, str):
            return self._entry(value)
        if self.is_in_file(value):
            return self._entry(loading.take(self.kind, value))
        if self.takes_files and value.endswith(".py"):
            raise InputError(f"{self.kind} {value!r} is a file; expected also the name of a function in it: {value}:make.")
        if value not in self and (loading.is_in_file(value) or value.endswith(".py")):
            raise InputError(
                f"{self.kind} {value!r} is in a file; expected a name: register the function in the file, load it by "
                f"--load {value.rpartition(':')[0] or value} or evoprune.system.loading.load, and give its name."
            )
        family, colon, rest = value.partition(":")
        if colon and family in self.families and value not in self:
            return self.families[family](rest)
        if value not in self:
            known = dict.fromkeys([*self, *(f"{name}:NAME" for name in self.families)])
            look_up(self.kind, value, known, self._meant.get(letters(value), ""))
        return self[value]

    def is_in_file(self, name: str) -> bool:
        """Tells whether a name stands for a thing in a file of the user's, and for nothing registered."""
        return self.takes_files and name not in self and loading.is_in_file(name)

    def name_of(self, value: object) -> str:
        """Returns the name of a thing for records: the one that it is registered under, else ``own.`` and its Python name.

        Of a thing in a file it is the file's name, without the folder, and the thing's.
        """
        if isinstance(value, str):
            return loading.short_name(value) if self.is_in_file(value) else value
        for name in self:
            if value is self[name] or value is self._given.get(name):
                return name
        return f"own.{describe(value)}"

    def own_or_name(self, value: Any) -> str | Own:
        """Returns the name of a thing that the package brings, and a user's thing with its name.

        Raises:
            InputError: The name is unknown, or the thing is none of this kind.
        """
        if isinstance(value, Own):
            return value
        self.find(value)
        name = self.name_of(value)
        if name in self._built_in:
            return name
        return Own(name, self._given[value] if isinstance(value, str) else value)

    def forget(self, name: str) -> None:
        """Removes a name that a user has registered; tests clean up by it."""
        self._own.pop(name, None)
        self._given.pop(name, None)

    def _entry(self, thing: Any) -> T:
        entry: T = thing if self._adapt is None else self._adapt(thing)
        return entry


def describe(thing: object) -> str:
    """Returns the qualified name of a function or class, or of the class of an object."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _is_same(one: Any, other: Any) -> bool:
    """Tells whether two things are one, equal, or come from the same definition."""
    if one is other:
        return True
    places = [(getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)) for thing in (one, other)]
    return places[0] == places[1] if places[0][1] else type(one) is type(other) and bool(one == other)
