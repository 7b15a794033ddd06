"""Command lines that are made from dataclasses: nested options become flat flags in groups, with the docstrings as help."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from evoprune.errors import InputError
from evoprune.options import choose

T = TypeVar("T")


def parse(kind: type[T], description: str | None, arguments: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Returns the options that a command line gives.

    Args:
        kind: A dataclass; the fields of nested ones are flags without a prefix.
        description: The text of ``--help``.
        arguments: The command line; None takes the process's.
        prog: The command's name; None takes the script's.

    Raises:
        InputError: An unknown flag, or a value of another type.
    """
    import tyro  # takes a second

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options: T = tyro.cli(tyro.conf.OmitArgPrefixes[kind], description=description, args=arguments, prog=prog)  # type: ignore[misc, valid-type]
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(_with_cure(_in_one_line(said.getvalue()))) from None
    return options


def _in_one_line(box: str) -> str:
    """Returns the message in a box of the parser's as one line, without the help on the argument."""
    parts = [part for line in box.splitlines()[1:] if (part := line.strip("│╭╮╰╯─ ")).strip("-")]
    help_begins = next((i for i, part in enumerate(parts) if part.startswith("Argument helptext")), len(parts))
    hint = [f"({part})" for part in parts[help_begins:] if part.startswith("For full helptext")]
    return " ".join([*parts[:help_begins], *hint])


def _with_cure(message: str) -> str:
    """Returns the parser's message on a value with the word that is meant, or with the way to give several values.

    Raises:
        InputError: The value is none of an option's words; the message is that of Python.
    """
    choice = re.match(r"invalid choice '(.*)' for argument '--([\w-]+)'\. Expected one of \((.*?)\)", message)
    if choice is not None:
        choose(choice[2].replace("-", "_"), choice[1], [word.strip(" '\"") for word in choice[3].split(",") if word.strip()])
    several = re.search(r"Error parsing (--[\w-]+).*\['([^']*,[^']*)'\]", message)
    if several is not None:
        values = " ".join(several[2].replace(",", " ").split())
        return f"{message} Give several values with blanks between them: {several[1]} {values}"
    return message


@functools.cache
def form(kind: type[Any], hidden: tuple[str, ...] = ()) -> type[Any]:
    """Returns a dataclass for the command line: it takes values as they are typed, which are checked when the real one is made.

    Args:
        kind: The dataclass. A field with the metadata ``flag=False`` has no flag; one with ``positional=True`` is a path that
            is given without one, or several.
        hidden: Names of further fields without a flag.
    """
    import tyro

    fields: list[Any] = []
    for each in dataclasses.fields(kind):
        default = {"default_factory": each.default_factory} if each.default is MISSING else {"default": each.default}
        if each.name in hidden or not each.metadata.get("flag", True):
            fields.append(
                (each.name, Annotated[Any, tyro.conf.Suppress, tyro.conf.Fixed], field(**default, metadata={"flag": False}))
            )
        elif each.metadata.get("positional") and each.default == ():
            fields.append((each.name, tyro.conf.Positional[tuple[Path, ...]], field(default=())))
        elif each.metadata.get("positional"):
            several = isinstance(each.default, tuple)  # they need not be given
            positional: Any = tyro.conf.Positional[tuple[Path, ...]] if several else tyro.conf.Positional[Path]
            fields.append((each.name, positional, field(default=each.default if several else tyro.MISSING)))
        elif dataclasses.is_dataclass(each.default_factory):
            inner = form(each.default_factory)
            fields.append((each.name, inner, field(default_factory=inner)))
    namespace = {"__post_init__": lambda self: None, "__doc__": _documentation(kind)}
    return make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, namespace=namespace)


def _documentation(kind: type[Any]) -> str:
    """Returns the docstring of a dataclass with the help of all its fields, inherited ones too, each in one line."""
    from docstring_parser import parse_from_object

    texts: dict[str, str] = {}
    for base in kind.__mro__[:-1]:
        for each in parse_from_object(base).params:
            texts.setdefault(each.arg_name, " ".join((each.description or "").replace("``", "").split()))
    summary = (kind.__doc__ or "").partition("\n")[0]
    return "\n".join([summary, "", "Attributes:", *(f"    {name}: {text}" for name, text in texts.items())])


def script(name: str, parts: Mapping[str, type[Any]], hidden: Mapping[str, tuple[str, ...]] | None = None) -> type[Any]:
    """Returns the dataclass of a whole command line.

    Args:
        name: Its name.
        parts: Dataclasses by the name of their group of flags.
        hidden: Names of fields without a flag, by group.
    """
    forms = {group: form(part, (hidden or {}).get(group, ())) for group, part in parts.items()}  # type: ignore[arg-type]
    return make_dataclass(name, [(group, made, field(default_factory=made)) for group, made in forms.items()], frozen=True)


def flat(options: Any) -> dict[str, Any]:
    """Returns the values of all flags by name, of nested dataclasses too."""
    values: dict[str, Any] = {}
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if dataclasses.is_dataclass(value):
            values |= flat(value)
        elif each.metadata.get("flag", True):
            values[each.name] = value
    return values
