"""Options: frozen dataclasses that are made from keywords, with the choices of their fields checked."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from evoprune.errors import InputError, letters, look_up

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
# Beyond these, a number among options is a slip: work with it would never end, or overflow. Fields whose metadata has
# ``any_size`` are free, such as seeds.
MOST_COUNT = 1_000_000
MOST, LEAST = 1e12, 1e-100
# Words that other programs have for some of the choices.
_MEANT = {
    **dict.fromkeys(("float16", "fp16", "16", "half", "bfloat16", "amp", "mixed"), "bf16"),
    **dict.fromkeys(("float32", "fp32", "32", "single"), "full"),
    "double": "float64",
}


def make(kind: type[T], given: Mapping[str, Any]) -> T:
    """Makes a dataclass from keywords.

    Args:
        kind: The dataclass.
        given: Values of its fields by name; a field that is absent has its default.

    Raises:
        InputError: A keyword that is no field, or a value that is none of its field's ``Literal`` choices.
    """
    options: T = split([kind], given)[0]
    return options


def split(kinds: Sequence[type[Any]], given: Mapping[str, Any]) -> tuple[Any, ...]:
    """Shares keywords out over several dataclasses, and makes each of them.

    A keyword that several of them have goes to all of these.

    Args:
        kinds: The dataclasses.
        given: Values of their fields by name.

    Returns:
        One object of each kind, in their order.

    Raises:
        InputError: A keyword that none of them has, or a value that is none of its field's ``Literal`` choices.
    """
    names = [_names(kind) for kind in kinds]
    known = dict.fromkeys(name for each in names for name in each)
    for name in given:
        look_up("option", name, known)
    made = tuple(kind(**{name: given[name] for name in each if name in given}) for kind, each in zip(kinds, names, strict=True))
    for options in made:
        check_choices(options)
        check_sizes(options)
    return made


def later_of(kind: type[Any]) -> dict[str, Any]:
    """Returns the defaults of those fields of a dataclass whose metadata has ``later``.

    Such fields are newer than the records of runs and the names of folders, which leave them out where they have the default.
    """
    return {field.name: field.default for field in dataclasses.fields(kind) if field.metadata.get("later")}


def check_choices(options: Any) -> None:
    """Checks the values of a dataclass's fields against their ``Literal`` choices; fields of other types may hold anything.

    Raises:
        InputError: A word that is none of them; the message lists them and the nearest.
    """
    kind: Any = type(options)
    for name, choices in _choices(kind).items():
        value = getattr(options, name)
        for word in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(word, str):
                choose(name, word, choices)


def choose(name: str, word: str, choices: Sequence[str]) -> str:
    """Returns a word that is one of some choices.

    Args:
        name: The option's name.
        word: The word.
        choices: The choices.

    Raises:
        InputError: It is none of them; the message lists them, and the one that is meant or the nearest.
    """
    meant = _MEANT.get(letters(str(word)), "")
    look_up(name, word, dict.fromkeys(choices), meant if meant in choices else "")
    return word


def check_sizes(options: Any) -> None:
    """Checks the numbers among a dataclass's fields for sizes that cannot be meant.

    Raises:
        InputError: An integer beyond :data:`MOST_COUNT`, or a number beyond :data:`MOST` or nearer to 0 than :data:`LEAST`.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else (value,)
        for number in values:
            if not field.metadata.get("any_size") and isinstance(number, (int, float)):
                _require_size(field.name, number)


def _require_size(name: str, number: float) -> None:
    most = MOST_COUNT if isinstance(number, int) else MOST
    if not -most <= number <= most:
        raise InputError(f"{name} is {number!r}; expected a number of at most {most:,.0f}.")
    if 0 < abs(number) < LEAST:
        raise InputError(f"{name} is {number!r}; expected 0, or at least {LEAST:g}.")


def accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some keywords that a function has parameters for by name."""
    names = parameters_of(function)
    return {name: value for name, value in given.items() if name in names}


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a function by name; none where it does not show them, as some of C's do not."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def takes(*kinds: type[Any]) -> Callable[[F], F]:
    """Returns a decorator of a function that takes the fields of dataclasses as keywords: its signature then shows them.

    Args:
        kinds: The dataclasses; the function's own parameters stay as they are.
    """

    def show(function: F) -> F:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        shown = {field.name: _parameter(field) for kind in kinds for field in dataclasses.fields(kind) if field.init}
        for parameter in own:
            shown.pop(parameter.name, None)
        function.__signature__ = signature.replace(parameters=[*own, *shown.values()])  # type: ignore[attr-defined]
        return function

    return show


def _parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    default = field.default
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty if field.default_factory is dataclasses.MISSING else field.default_factory()
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type)


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


@functools.cache
def _choices(kind: Any) -> dict[str, tuple[str, ...]]:
    """Returns the words that fields choose from, by the field's name, for those that take no other words."""
    hints = get_type_hints(kind)
    found = {name: list(_leaves(hints[name])) for name in _names(kind)}
    return {
        name: tuple(leaf for leaf in leaves if isinstance(leaf, str))
        for name, leaves in found.items()
        if str not in leaves and any(isinstance(leaf, str) for leaf in leaves)
    }


def _leaves(hint: Any) -> Iterator[Any]:
    """Yields the types and literal words that a type is made of, through unions and sequences."""
    origin = get_origin(hint)
    if origin is Literal:
        yield from get_args(hint)
    elif origin in (Union, types.UnionType, tuple, list, Sequence):
        for argument in get_args(hint):
            yield from _leaves(argument)
    else:
        yield hint
