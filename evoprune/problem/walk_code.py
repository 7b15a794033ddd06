"""How code enters a digest: functions with their closures and the globals that they read, modules, and compiled code."""

from __future__ import annotations

import builtins
import importlib
import inspect
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from evoprune.problem.usercode import key_of, names_read, package_of_code, package_of_module
from evoprune.problem.walk import BUILTINS, PLAIN, Walk
from evoprune.problem.walk_objects import add_type


def add_python_module(walk: Walk, module: types.ModuleType) -> None:
    """Adds a module: of a package its name, of the user's its content."""
    package = package_of_module(module.__name__)
    if package is not None:
        walk.token("module", package, module.__name__)
    elif walk.is_new("module", module):
        walk.token("module of the user's")
        walk.each({name: value for name, value in vars(module).items() if not name.startswith("__")})


def add_function(walk: Walk, function: types.FunctionType) -> None:
    """Adds a function: its code, defaults, closure and the globals that it reads."""
    if not walk.is_new("function", function):
        return
    code, package = function.__code__, package_of_code(function.__code__)
    if package is None:
        walk.token("function", walk.text(code))
        walk.add(function.__defaults__)
        walk.each(function.__kwdefaults__ or {})
        walk.each(vars(function))
        _add_globals(walk, code, function.__globals__)
    else:  # a decorator of a package keeps the user's function in its closure
        walk.texts[f"package {key_of(code)}"] = package
        walk.token("function", package, code.co_name)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if walk.ignores(name):
            continue
        walk.token("cell", name)
        with walk.at(name):
            try:
                content = cell.cell_contents
            except ValueError:
                walk.token("empty")
                continue
            if name == "__class__" and isinstance(content, type):  # of super()
                add_type(walk, content)
            else:
                walk.add(content)


def _add_globals(walk: Walk, code: types.CodeType, names: Mapping[str, Any]) -> None:
    for root, *attributes in dict.fromkeys(names_read(code)):
        if walk.ignores(root):
            continue
        walk.token("reads", root, *attributes)
        with walk.at(root):
            if root.startswith("import "):
                _add_imported(walk, root.removeprefix("import "), attributes, names)
            elif root in names:
                _add_read(walk, names[root], attributes)
            elif root in ("globals", "eval", "exec"):  # which may read any of them
                walk.each({name: value for name, value in names.items() if not name.startswith("__")})
            else:
                walk.token("built in" if hasattr(builtins, root) else "not there")


def _add_imported(walk: Walk, name: str, attributes: Sequence[str], names: Mapping[str, Any]) -> None:
    """Adds a module that a function imports; importing it here is safe, since the function imports it anyway."""
    package = None if name.startswith(".") else package_of_module(name)
    if package is not None:
        walk.token(package, name)
        return
    try:
        module = importlib.import_module(name, names.get("__package__"))
    except ImportError as error:
        walk.token("cannot be imported", type(error).__name__)
        return
    if attributes and not hasattr(module, attributes[0]):  # a module inside it
        _add_imported(walk, f"{module.__name__}.{attributes[0]}", (), names)
    else:
        _add_read(walk, module, attributes)


def _add_read(walk: Walk, value: Any, attributes: Sequence[str]) -> None:
    """Adds the attribute that is read of a value, if reading it runs no code; else the whole value."""
    for i, attribute in enumerate(attributes):
        if isinstance(value, types.ModuleType) and hasattr(value, attribute):
            package = package_of_module(value.__name__)
            value = getattr(value, attribute)
            if package is not None and not _is_code(value):  # such as torch.backends, or a constant
                walk.token(package, *attributes[: i + 1])
                if type(value) in (*PLAIN, float):
                    walk.add(value)
                return
        elif _is_plain_attribute(value, attribute):
            value = vars(value)[attribute]
        else:
            break
        if walk.ignores(attribute):
            return
    walk.add(value)


def _is_code(value: Any) -> bool:
    return isinstance(value, (types.ModuleType, types.FunctionType, type, *BUILTINS)) or inspect.isroutine(value)


def _is_plain_attribute(thing: Any, name: str) -> bool:
    """Tells whether reading an attribute takes it from the object's dictionary and runs no code."""
    kind = type(thing)
    return (
        not isinstance(thing, (type, nn.Module))
        and name in getattr(thing, "__dict__", {})
        and isinstance(inspect.getattr_static(kind, "__getattribute__"), types.WrapperDescriptorType)
        and not hasattr(inspect.getattr_static(kind, name, None), "__set__")
    )


def add_method(walk: Walk, method: types.MethodType) -> None:
    """Adds a bound method: its function, and the object that it is bound to."""
    walk.token("method")
    walk.add(method.__func__)
    walk.add(method.__self__)


def add_builtin(walk: Walk, function: Any) -> None:
    """Adds a function or method that is C's, with the object or class that it belongs to."""
    owner = getattr(function, "__self__", None)
    kind = owner if isinstance(owner, type) else getattr(function, "__objclass__", None)
    walk.token("built in", getattr(function, "__qualname__", function.__name__))
    if owner is not None and not isinstance(owner, (type, types.ModuleType)) and "pybind11" not in type(owner).__module__:
        walk.add(owner)
    elif kind is not None:
        add_type(walk, kind)
    else:
        walk.token(function.__module__ if owner is None else getattr(owner, "__name__", ""))


def add_ufunc(walk: Walk, ufunc: np.ufunc) -> None:
    """Adds one of numpy's or scipy's functions of elements by its name."""
    module = sys.modules.get(getattr(ufunc, "__module__", None) or "numpy")
    name = ufunc.__name__
    if not any(getattr(place, name, None) is ufunc for place in (module, np, sys.modules.get("scipy.special"))):
        walk.refuse(ufunc, "numpy does not say of which function it was made")
    walk.token("ufunc", name)


def add_compiled(walk: Walk, function: Any) -> None:
    """Adds a function of a compiled extension by its package and name."""
    walk.token("compiled", package_of_module(function.__module__), function.__module__, function.__qualname__)


def add_wrapped(walk: Walk, thing: Any) -> None:
    """Adds the functions and arguments that a descriptor, a partial function or a cache wraps."""
    walk.token(type(thing).__name__)
    for name in ("__wrapped__", "__func__", "func", "args", "keywords", "fget", "fset", "fdel"):
        if hasattr(thing, name):
            walk.token(name)
            walk.add(getattr(thing, name))
