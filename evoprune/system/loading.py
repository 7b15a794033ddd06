"""A user's files that ``--load`` names, and installed plugins: both register their definitions by name.

A name such as ``path/to/file.py:function`` is that of a thing in a file, which is loaded and registers nothing by it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import linecache
import os
import sys
import types
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle

from evoprune.errors import EvopruneError, InputError, look_up

PLUGINS = "evoprune.plugins"
PREFIX = "evoprune_loaded_"


@dataclass(frozen=True)
class Loaded:
    """A file that was loaded.

    Attributes:
        path: The file.
        text: Its content when it was loaded.
        module: The module that it became.
        registers: It was loaded for all that it registers, so the whole file counts in every run; else things in it were taken
            by their names.
        is_fixed: The text counts whatever is on the disk by now: it came from another process, or work on it has begun.
    """

    path: Path
    text: str
    module: types.ModuleType
    registers: bool = True
    is_fixed: bool = False


# Path, text and ``registers`` of a file, as they cross the wire.
Source: TypeAlias = tuple[str, str, bool]


# By module name. Registrations are of the process, and so is the list of the files that made them.
_loaded: dict[str, Loaded] = {}
_plugins: list[str] = []


def load(path: str | os.PathLike[str], registers: bool = True) -> types.ModuleType:
    """Imports a Python file of the user's, once; a file that has changed since is imported again.

    Definitions of the file travel to workers by value, so workers need no copy of it.

    Args:
        path: The file.
        registers: The file is loaded for all that it registers; see :class:`Loaded`.

    Raises:
        InputError: The file cannot be read or fails while it is imported, or a file of the same name was loaded from elsewhere.
    """
    file = Path(path).expanduser().absolute()
    name = PREFIX + file.stem
    before = _loaded.get(name)
    if before is not None and before.is_fixed and before.path == file:
        return before.module
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot load {os.fspath(path)!r}: {error}; expected a Python file.") from error
    if before is not None and before.path != file and before.path.exists():
        raise InputError(f"cannot load {file}: {before.path} is loaded already; expected files of different names.")
    if before is not None and before.text == text:
        module = before.module
    else:
        module = _run(name, file, text)
        cloudpickle.register_pickle_by_value(module)
    _loaded[name] = Loaded(file, text, module, registers or (before is not None and before.registers))
    return module


def is_in_file(name: str) -> bool:
    """Tells whether a name is that of a thing in a Python file, ``path/to/file.py:function``."""
    return name.rpartition(":")[0].endswith(".py")


def short_name(name: str) -> str:
    """Returns the name of a thing in a file as records have it: without the file's folder."""
    path, _, thing = name.rpartition(":")
    return f"{Path(path).name}:{thing}"


def full_name(name: str) -> str:
    """Returns the name of a thing in a file with the file's whole path, as other processes find it."""
    path, _, thing = name.rpartition(":")
    return f"{_place(path)}:{thing}"


def take(kind: str, name: str) -> Any:
    """Returns a function or class of a Python file.

    Args:
        kind: The kind of things that it is, for messages.
        name: ``path/to/file.py:function``. A file name alone also stands for a file that was loaded from another folder, unless
            there is one of that name here.

    Raises:
        InputError: The file cannot be loaded, see :func:`load`, or holds no such function or class.
    """
    path, _, thing = name.rpartition(":")
    module = load(_place(path), registers=False)
    if thing in vars(module) and not callable(vars(module)[thing]):
        raise InputError(f"{kind} {name!r} is {type(vars(module)[thing]).__name__}; expected a function or class of the file.")
    known = {each: value for each, value in vars(module).items() if callable(value) and not each.startswith("_")}
    ours = {each: value for each, value in known.items() if getattr(value, "__module__", None) == module.__name__}
    return known[thing] if thing in known else look_up(f"{kind} of {Path(path).name}", thing, ours)


def _place(path: str) -> Path:
    file = Path(path).expanduser().absolute()
    before = _loaded.get(PREFIX + file.stem)
    return before.path if before is not None and path == before.path.name and not file.exists() else file


def loaded() -> tuple[Loaded, ...]:
    """Returns the files that were loaded, in the order in which they were first loaded."""
    return tuple(_loaded.values())


def sources() -> tuple[Source, ...]:
    """Returns the files that were loaded, for :func:`restore` in another process."""
    return tuple((str(each.path), each.text, each.registers) for each in loaded())


def restore(files: Sequence[Source]) -> None:
    """Loads files that another process has loaded, from their text; this process needs no copy of them.

    Args:
        files: The other process's :func:`sources`.
    """
    load_plugins()
    for place, text, registers in files:
        path = Path(place)
        name = PREFIX + path.stem
        if name not in _loaded or (_loaded[name].path, _loaded[name].text) != (path, text):
            linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)  # the code's source, for its hash
            _loaded[name] = Loaded(path, text, _run(name, path, text), registers, is_fixed=True)


@contextmanager
def unchanging() -> Iterator[None]:
    """Keeps to the files as they were loaded, in long work in which the user may edit them."""
    before = dict(_loaded)
    _loaded.update({name: replace(each, is_fixed=True) for name, each in before.items()})
    try:
        yield
    finally:
        _loaded.update(before)


def identify_loaded(names: Collection[str] = ()) -> dict[str, str]:
    """Returns the digests of :func:`identify_files` for all files that register things, and those in which named things are.

    Args:
        names: Names of things, such as ``file.py:function``; others do not count.
    """
    return identify_files([*(f"{each.path.name}:" for each in loaded() if each.registers), *names])


def identify_files(names: Collection[str]) -> dict[str, str]:
    """Returns a digest of the syntax tree of the loaded files in which named things are: comments do not count.

    Args:
        names: Names of things, such as ``file.py:function``; others do not count.

    Returns:
        The digests by ``load`` and the file's name.
    """
    files = {name.rpartition(":")[0] for name in names}
    counting = [each for each in loaded() if each.path.name in files]
    return {f"load {each.path.name}": hashlib.sha256(ast.dump(ast.parse(each.text)).encode()).hexdigest() for each in counting}


def load_plugins() -> None:
    """Loads the installed plugins, once: the entry points of the group ``evoprune.plugins``.

    An entry point names a module, which registers things as it is imported, or a function that takes nothing and does.

    Warns:
        UserWarning: A plugin fails; the others are loaded all the same.
    """
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        if entry.value in _plugins:
            continue
        _plugins.append(entry.value)
        try:
            thing = entry.load()
            if callable(thing):
                thing()
        except Exception as error:  # noqa: BLE001 - a plugin that the run does not need must not end it
            warnings.warn(
                f"the plugin {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}; update or "
                f"uninstall its package.",
                UserWarning,
                stacklevel=2,
            )


def _run(name: str, file: Path, text: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = str(file)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        exec(compile(text, str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        reason = str(error) if isinstance(error, EvopruneError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"cannot load {file}: {reason}. Expected a file that can be imported by itself, with a script's own work under if "
            f"__name__ == '__main__'; modules beside it are found where their folder is in PYTHONPATH."
        ) from error
    return module
