"""A user's files that ``--load`` names, and installed plugins: both register their definitions by name."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import sys
import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cloudpickle

from evoprune.errors import EvopruneError, InputError

PLUGINS = "evoprune.plugins"
PREFIX = "evoprune_loaded_"


@dataclass(frozen=True)
class Loaded:
    """A file that was loaded.

    Attributes:
        path: The file.
        text: Its content when it was loaded.
        module: The module that it became.
    """

    path: Path
    text: str
    module: types.ModuleType


# By module name. Registrations are of the process, and so is the list of the files that made them.
_loaded: dict[str, Loaded] = {}
_plugins: list[str] = []


def load(path: str | os.PathLike[str]) -> types.ModuleType:
    """Imports a Python file of the user's, once; a file that has changed since is imported again.

    Definitions of the file travel to workers by value, so workers need no copy of it.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be read or fails while it is imported, or a file of the same name was loaded from elsewhere.
    """
    file = Path(path).expanduser().absolute()
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot load {os.fspath(path)!r}: {error}; expected a Python file.") from error
    name = PREFIX + file.stem
    before = _loaded.get(name)
    if before is not None and before.path != file:
        raise InputError(f"cannot load {file}: {before.path} is loaded already; expected files of different names.")
    if before is not None and before.text == text:
        return before.module
    module = _run(name, file, text)
    cloudpickle.register_pickle_by_value(module)
    _loaded[name] = Loaded(file, text, module)
    return module


def loaded() -> tuple[Loaded, ...]:
    """Returns the files that were loaded, in the order in which they were first loaded."""
    return tuple(_loaded.values())


def sources() -> tuple[tuple[str, str], ...]:
    """Returns path and text of each file that was loaded, for :func:`restore` in another process."""
    return tuple((str(each.path), each.text) for each in loaded())


def restore(files: Sequence[tuple[str, str]]) -> None:
    """Loads files that another process has loaded, from their text; this process needs no copy of them.

    Args:
        files: Path and text of each.
    """
    load_plugins()
    for place, text in files:
        path = Path(place)
        name = PREFIX + path.stem
        if name not in _loaded or _loaded[name].text != text:
            _loaded[name] = Loaded(path, text, _run(name, path, text))


def identify_loaded() -> dict[str, str]:
    """Returns a digest of each loaded file's syntax tree, by ``load`` and the file's name: comments do not count."""
    return {f"load {each.path.name}": hashlib.sha256(ast.dump(ast.parse(each.text)).encode()).hexdigest() for each in loaded()}


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
    except Exception as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        reason = str(error) if isinstance(error, EvopruneError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"cannot load {file}: {reason}. Expected a file that can be imported by itself; modules beside it are found where "
            f"their folder is in PYTHONPATH."
        ) from error
    return module
