"""Errors that a user can mend, and the look-up of names that a user gives.

Scripts print these without a traceback; anything else is a defect of the program and shows one.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class EvopruneError(Exception):
    """An error that a user can mend: it says which value was given, which was expected, and the cure."""


class InputError(EvopruneError, ValueError):
    """A value from the user that cannot be used."""


class InUseError(InputError):
    """A run folder that another process uses."""


class RunError(EvopruneError, RuntimeError):
    """A run that could not continue; its finished parts are on disk."""


class CollapseWarning(UserWarning):
    """A mask that cuts off layers or outputs."""


class UnprunableWarning(UserWarning):
    """A network with weights that look like a layer's but are not prunable, and stay dense."""


class SurvivorsWarning(UserWarning):
    """A mask is evaluated that has another number of survivors than the sparsity says.

    All results then mean something else, so a filter for warnings of every kind (``python -W ignore``) does not hide it; one
    for this category does.
    """


class WorkersError(RunError):
    """Workers that cannot continue, whatever the mask."""


class LostTaskError(RunError):
    """A task that no worker could finish."""


def warn_in_spite_of_blanket_filters(message: str, category: type[Warning], stacklevel: int) -> None:
    """Warns unless the user has a filter for this category; a filter that ignores every warning does not count."""
    with warnings.catch_warnings():
        warnings.filters[:] = [entry for entry in warnings.filters if entry[:3] != ("ignore", None, Warning)]  # type: ignore[index]
        warnings.warn(message, category, stacklevel=stacklevel + 1)


# Words in torch's messages when there is no memory, or no thread.
_OF_THE_MACHINE = (
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "start new thread",
)  # fmt: skip


def is_of_the_machine(error: BaseException | None) -> bool:
    """Tells whether an error or its cause is a failure of the machine: of memory, files, devices or the network."""
    if error is None:
        return False
    is_such = isinstance(error, (MemoryError, OSError))
    if isinstance(error, RuntimeError):
        is_such = any(words in str(error).lower() for words in _OF_THE_MACHINE)
    return is_such or is_of_the_machine(error.__cause__)


def look_up(kind: str, name: str, registry: Mapping[str, T], meant: str = "") -> T:
    """Returns ``registry[name]``.

    Args:
        kind: The kind of things that have the names, in the singular, for the message.
        name: The name the user gave.
        registry: The known names.
        meant: The name that an unknown one probably means; empty for the nearest of the known ones.

    Raises:
        InputError: The name is unknown; the message lists the known ones and the nearest.
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    near = meant or _nearest(str(name), registry)
    hint = f" Did you mean {near!r}?" if near else ""
    raise InputError(f"unknown {kind} {name!r}; expected one of: {', '.join(sorted(registry))}.{hint}")


def letters(name: str) -> str:
    """Returns a name without capitals, dashes and the like, in which names that are typed differ from those that are meant."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _nearest(name: str, known: Mapping[str, object]) -> str:
    alike = {letters(each): each for each in known}
    if letters(name) in alike:
        return alike[letters(name)]
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else "".join(alike[each] for each in difflib.get_close_matches(letters(name), alike, n=1))
