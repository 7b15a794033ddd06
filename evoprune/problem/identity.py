"""Identity: what a value is, as a digest that is the same in every process; values that behave differently have other ones.

The user's own code counts by its source: functions with their defaults, closures and the globals that they read, classes with
their bases, objects with all their attributes. Installed packages count by name and version. A value that cannot be told from
another, such as an open file, is refused, naming it.
"""

from __future__ import annotations

import builtins
import collections
import copyreg
import dataclasses
import enum
import functools
import hashlib
import importlib
import inspect
import json
import logging
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.errors import InputError
from evoprune.problem.usercode import (
    is_generated,
    key_of,
    names_read,
    package_of_class,
    package_of_code,
    package_of_module,
    text_of,
)

# Raised whenever a value's digest changes its meaning; run folders of another version are refused.
VERSION = 2

_PLAIN = (type(None), bool, int, str, bytes, type(...), type(NotImplemented))
_BUILTINS = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)  # fmt: skip
_WRAPPED = (functools.partial, functools.partialmethod, staticmethod, classmethod, property, functools.cached_property)
# Descriptors of slots, and of attributes that are C's: their values are found in the objects.
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
# Methods that do not touch what an object computes. Other names with two underscores on each side are of interest only if they
# can be called: data under such names is Python's own, some of it set when a class is first pickled.
_NOT_OF_A_CLASS = ("__repr__", "extra_repr", "__del__", "_abc_impl")
_CONSTRUCTORS = ("__init__", "__new__", "__init_subclass__", "__post_init__")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class UnidentifiedError(InputError):
    """A value of the user's that cannot be told from others."""


@dataclass(frozen=True)
class Identified:
    """What a value was identified by.

    Attributes:
        digest: SHA-256 in hex.
        texts: The text of each piece of its code by :func:`evoprune.problem.usercode.key_of`.
    """

    digest: str
    texts: dict[str, str]


def identify(name: str, thing: Any, ignore: Sequence[str] = (), known: Mapping[int, str] | None = None) -> Identified:
    """Identifies a value.

    Args:
        name: What errors call it.
        thing: The value.
        ignore: Names of attributes and globals that do not count, wherever they are: ``log``, or ``Net.log`` for those whose
            path ends so.
        known: Names of objects by ``id``, such as parameters, whose content is counted elsewhere.

    Raises:
        UnidentifiedError: It holds something that cannot be identified.
    """
    walk = _Walk(ignore, known or {})
    with walk.at(name):
        try:
            walk.add(thing)
        except RecursionError as error:
            raise UnidentifiedError(f"{name} is nested too deeply to be identified; expected less than 100 levels.") from error
        except UnidentifiedError:
            raise
        except Exception as error:
            raise UnidentifiedError(
                f"{name} cannot be identified: {type(error).__name__}: {error}. Leave out the attribute by "
                f"Problem(ignore=('...',)), or name model and loss yourself: Problem(identity='my-net-1')."
            ) from error
    return Identified(walk.digest.hexdigest(), walk.texts)


def digest_of(name: str, thing: Any, ignore: Sequence[str] = ()) -> str:
    """Returns the digest of a value; see :func:`identify`."""
    return identify(name, thing, ignore).digest


def hash_of(parts: Mapping[str, str]) -> str:
    """Returns one SHA-256, in hex, of several digests by name, and of the version of this scheme."""
    return hashlib.sha256(json.dumps([VERSION, dict(parts)], sort_keys=True).encode()).hexdigest()


def differing(parts: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Returns the names of the parts that differ, in words."""
    names = [name for name in dict.fromkeys([*parts, *others]) if parts.get(name) != others.get(name)]
    return ", ".join(names)


def tensor_bytes(tensor: Tensor) -> Any:
    """Returns a tensor's values as a buffer, wherever it lies."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data


class _Walk:
    """A walk through values, each of which enters the digest as its kind and what it is made of.

    An object that is met again enters as the number that it had: so that cycles end, and what is shared is told from copies.
    """

    def __init__(self, ignore: Sequence[str], known: Mapping[int, str]) -> None:
        self.digest = hashlib.sha256()
        self.ignore, self.known = tuple(ignore), known
        self.numbers: dict[tuple[str, int], int] = {}
        self.kept: list[Any] = []  # so that no other object gets its id
        self.path: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self.texts: dict[str, str] = {}

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        self.path.append(name)
        try:
            yield
        finally:
            self.path.pop()

    def token(self, *parts: object) -> None:
        for part in parts:
            content = str(part).encode("utf-8", "surrogatepass")
            self.digest.update(len(content).to_bytes(8, "big"))
            self.digest.update(content)

    def text(self, code: types.CodeType) -> str:
        found = self.texts[key_of(code)] = text_of(code)
        return found

    def sharing(self, tensor: Tensor) -> list[tuple[int, int]]:
        """Returns with which tensors before this one shares memory, by their numbers, and how far it lies from each.

        What changes one of them in place changes the other.
        """
        size = tensor.element_size()
        begin = tensor.untyped_storage().data_ptr() + int(tensor.storage_offset()) * size
        reach = sum((int(n) - 1) * int(stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        end = begin + size * reach if tensor.numel() else begin
        shared = [(i, begin - start) for i, (start, stop) in enumerate(self.ranges) if start < end and begin < stop]
        self.ranges.append((begin, end))
        return [*shared, (-1, 0)] if tensor.numel() > reach else shared  # the last: elements of its own are one

    def is_new(self, kind: str, thing: object) -> bool:
        """Numbers an object; one that has a number already enters the digest by it."""
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
        path = ".".join([*self.path, name])
        return any(path == given or path.endswith(f".{given}") for given in self.ignore)

    def add(self, thing: Any) -> None:
        """Adds a value to the digest."""
        if type(thing) in _PLAIN:
            self.token(type(thing).__name__, repr(thing))
        elif type(thing) in (float, complex):
            self.token(type(thing).__name__, thing.hex() if isinstance(thing, float) else (thing.real.hex(), thing.imag.hex()))
        elif id(thing) in self.known:
            self.token("known", self.known[id(thing)])
        elif isinstance(thing, torch.device):
            self.token("device")  # where it runs decides nothing
        elif isinstance(thing, (torch.dtype, torch.layout, torch.memory_format, np.dtype, types.GenericAlias, types.UnionType)):
            self.token(type(thing).__name__, repr(thing))
        else:
            add = next(add for fits, add in _KINDS if fits(thing))
            add(self, thing)

    def refuse(self, thing: object, reason: object = "") -> NoReturn:
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
        name = self.path[-1]
        why = f" ({reason})" if str(reason) else ""
        raise UnidentifiedError(
            f"{'.'.join(self.path)} is a {kind}, which cannot be told from another{why}, so neither a run folder (out=) nor "
            f"workers could know the problem again. Expected plain data and code; if it changes no training, leave it out by "
            f"Problem(ignore=({name!r},)), or name model and loss yourself: Problem(identity='my-net-1')."
        )


def _add_tensor(walk: _Walk, tensor: Tensor) -> None:
    if walk.is_new("tensor", tensor):
        if tensor.layout != torch.strided and tensor.device.type != "meta":
            entries = tensor.detach().to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
            walk.token("sparse", tensor.layout, tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
            for part in (entries.indices(), entries.values()):
                walk.token(tuple(part.shape))
                walk.digest.update(tensor_bytes(part))
            return
        if tensor.is_quantized or tensor.device.type == "meta":
            walk.refuse(tensor, f"its layout is {tensor.layout}, on {tensor.device}")
        walk.token("tensor", tensor.dtype, tuple(tensor.shape), tensor.requires_grad, walk.sharing(tensor))
        walk.digest.update(tensor_bytes(tensor))
        if type(tensor) not in (Tensor, nn.Parameter):
            add_type(walk, type(tensor))
        walk.each(getattr(tensor, "__dict__", {}))


def _add_array(walk: _Walk, array: Any) -> None:
    if not walk.is_new("array", array):
        return
    walk.token("array", repr(array.dtype), array.shape)
    if type(array) is not np.ndarray and not isinstance(array, np.generic):
        add_type(walk, type(array))
        walk.each({name: value for name, value in vars(array).items() if name != "_basedict"})
    if isinstance(array, np.ma.MaskedArray):
        walk.add(np.asarray(np.ma.getmaskarray(array)))
    if array.dtype.hasobject:
        for item in np.asarray(array, object).ravel().tolist():
            walk.add(item)
    else:
        walk.digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _add_items(walk: _Walk, items: Sequence[Any]) -> None:
    if isinstance(items, (tuple, range)) or walk.is_new("items", items):
        walk.token(type(items).__name__, len(items), getattr(items, "maxlen", None))
        for i, item in enumerate(items):
            with walk.at(str(i)):
                walk.add(item)


def _add_mapping(walk: _Walk, mapping: Any) -> None:
    if not walk.is_new("mapping", mapping):
        return
    pairs = [(key, value) for key, value in mapping.items() if not (isinstance(key, str) and walk.ignores(key))]
    walk.token(type(mapping).__name__, len(pairs))
    walk.add(getattr(mapping, "default_factory", None))
    for key, value in pairs:
        walk.add(key)
        with walk.at(str(key)):
            walk.add(value)


def _add_set(walk: _Walk, items: Any) -> None:
    def digest(item: Any) -> str:
        inner = _Walk(walk.ignore, walk.known)
        inner.path = list(walk.path)
        inner.add(item)
        walk.texts |= inner.texts
        return inner.digest.hexdigest()

    walk.token(type(items).__name__, *sorted(map(digest, items)))


def _add_enum(walk: _Walk, member: enum.Enum) -> None:
    add_class(walk, type(member))
    walk.token(member.name)


def _add_python_module(walk: _Walk, module: types.ModuleType) -> None:
    package = package_of_module(module.__name__)
    if package is not None:
        walk.token("module", package, module.__name__)
    elif walk.is_new("module", module):
        walk.token("module of the user's")
        walk.each({name: value for name, value in vars(module).items() if not name.startswith("__")})


def _add_function(walk: _Walk, function: types.FunctionType) -> None:
    """Adds a function: its code, what it is bound to, and what it reads."""
    if not walk.is_new("function", function):
        return
    code, package = function.__code__, package_of_code(function.__code__)
    if package is None:
        walk.token("function", walk.text(code))
        walk.add(function.__defaults__)
        walk.each(function.__kwdefaults__ or {})
        walk.each(vars(function))
        _add_globals(walk, code, function.__globals__)
    else:  # one that a package has made of a function of the user's, as decorators do, has that in its closure
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


def _add_globals(walk: _Walk, code: types.CodeType, names: Mapping[str, Any]) -> None:
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


def _add_imported(walk: _Walk, name: str, attributes: Sequence[str], names: Mapping[str, Any]) -> None:
    """Adds a module that a function imports; what it imports it runs anyway."""
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


def _add_read(walk: _Walk, value: Any, attributes: Sequence[str]) -> None:
    """Adds what is read of a value: the attribute alone where nothing but looking it up happens, else the whole value."""
    for i, attribute in enumerate(attributes):
        if isinstance(value, types.ModuleType) and hasattr(value, attribute):
            package = package_of_module(value.__name__)
            value = getattr(value, attribute)
            if package is not None and not _is_code(value):  # such as torch.backends, or a constant
                walk.token(package, *attributes[: i + 1])
                if type(value) in (*_PLAIN, float):
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
    return isinstance(value, (types.ModuleType, types.FunctionType, type, *_BUILTINS)) or inspect.isroutine(value)


def _is_plain_attribute(thing: Any, name: str) -> bool:
    """Tells whether reading an attribute gives what the object's dictionary has, and runs no code."""
    kind = type(thing)
    return (
        not isinstance(thing, (type, nn.Module))
        and name in getattr(thing, "__dict__", {})
        and isinstance(inspect.getattr_static(kind, "__getattribute__"), types.WrapperDescriptorType)
        and not hasattr(inspect.getattr_static(kind, name, None), "__set__")
    )


def _add_method(walk: _Walk, method: types.MethodType) -> None:
    walk.token("method")
    walk.add(method.__func__)
    walk.add(method.__self__)


def _add_builtin(walk: _Walk, function: Any) -> None:
    owner = getattr(function, "__self__", None)
    kind = owner if isinstance(owner, type) else getattr(function, "__objclass__", None)
    walk.token("built in", getattr(function, "__qualname__", function.__name__))
    if owner is not None and not isinstance(owner, (type, types.ModuleType)) and "pybind11" not in type(owner).__module__:
        walk.add(owner)
    elif kind is not None:
        add_type(walk, kind)
    else:
        walk.token(function.__module__ if owner is None else getattr(owner, "__name__", ""))


def _add_ufunc(walk: _Walk, ufunc: np.ufunc) -> None:
    module = sys.modules.get(getattr(ufunc, "__module__", None) or "numpy")
    name = ufunc.__name__
    if not any(getattr(place, name, None) is ufunc for place in (module, np, sys.modules.get("scipy.special"))):
        walk.refuse(ufunc, "numpy does not say of which function it was made")
    walk.token("ufunc", name)


def _add_compiled(walk: _Walk, function: Any) -> None:
    walk.token("compiled", package_of_module(function.__module__), function.__module__, function.__qualname__)


def _add_wrapped(walk: _Walk, thing: Any) -> None:
    """Adds what a descriptor or a cache is made of."""
    walk.token(type(thing).__name__)
    for name in ("__wrapped__", "__func__", "func", "args", "keywords", "fget", "fset", "fdel"):
        if hasattr(thing, name):
            walk.token(name)
            walk.add(getattr(thing, name))


def add_class(walk: _Walk, kind: type) -> None:
    """Adds a class that code may call: with its constructor."""
    _add_class(walk, kind, "class")


def add_type(walk: _Walk, kind: type) -> None:
    """Adds the class of an object that is made already: what a constructor read when it was made no longer matters."""
    _add_class(walk, kind, "type")


def _add_class(walk: _Walk, kind: type, role: str) -> None:
    if not walk.is_new(role, kind):
        return
    walk.token(role, *(base.__name__ for base in kind.__mro__))
    if type(kind) is not type and package_of_class(type(kind)) is None:
        add_type(walk, type(kind))
    for base in kind.__mro__:
        package = package_of_class(base)
        if package is not None:
            walk.token(package, base.__module__, base.__qualname__)
            names = _replaced(base)
        else:
            walk.token("user's")
            names = {name: value for name, value in vars(base).items() if _is_of_class(base, name, value)}
        if role == "type":
            for name in [name for name in _CONSTRUCTORS if name in names]:
                made = names.pop(name)
                walk.token(name, walk.text(made.__code__) if isinstance(made, types.FunctionType) else "")
        with walk.at(base.__qualname__):
            walk.each(names)
            if package is None and "__dataclass_fields__" in vars(base):
                _add_dataclass(walk, base)


def _is_of_class(kind: type, name: str, value: Any) -> bool:
    if name in _NOT_OF_A_CLASS or isinstance(value, _SLOTS):
        return False
    if name.startswith("__") and name.endswith("__") and not (callable(value) or isinstance(value, _WRAPPED)):
        return False
    generated = isinstance(value, types.FunctionType) and is_generated(value.__code__)
    return not (generated and hasattr(kind, "__dataclass_fields__"))


def _add_dataclass(walk: _Walk, kind: Any) -> None:
    """Adds what the methods of a dataclass are generated from."""
    walk.token("dataclass", repr(kind.__dataclass_params__))
    for field in dataclasses.fields(kind):
        walk.token("field", field.name, field.init, field.compare, field.hash, field.kw_only)
        for default in (field.default, field.default_factory):
            walk.add(None if isinstance(default, type(dataclasses.MISSING)) else default)  # which is another one by value


def _replaced(kind: type) -> dict[str, Any]:
    """Returns the methods of an installed class that the user has replaced by functions of their own."""
    return {
        name: value
        for name, value in vars(kind).items()
        if isinstance(value, types.FunctionType) and package_of_code(value.__code__) is None
        if not value.__code__.co_filename.startswith("<")  # generated by the package
    }


def _add_network(walk: _Walk, network: nn.Module) -> None:
    """Adds a module: its class, attributes, hooks, and what it consists of, in order."""
    if isinstance(network, torch.jit.ScriptModule):
        walk.refuse(network, "TorchScript does not show its code")
    if not walk.is_new("network", network):
        return
    add_type(walk, type(network))
    for kind in ("_parameters", "_buffers", "_modules"):
        walk.token(kind)
        walk.each(getattr(network, kind), ordered=True)
    for kind in _HOOKS:
        walk.token(kind)
        walk.each({f"{kind} {i}": hook for i, hook in enumerate(getattr(network, kind).values())}, ordered=True)
    walk.each({name: value for name, value in vars(network).items() if name not in _OF_EVERY_MODULE})


def _add_object(walk: _Walk, thing: Any) -> None:
    """Adds an object: of a class of the user's by all its attributes, else as it would be pickled."""
    if isinstance(thing, weakref.ref):
        walk.token("weak reference")
        walk.add(thing())
    elif isinstance(thing, logging.Logger):
        walk.token("logger", thing.name)
    elif not walk.is_new("object", thing):
        return
    elif package_of_class(type(thing)) is not None:
        _add_reduced(walk, thing)
    else:
        add_type(walk, type(thing))
        _add_content(walk, thing)
        if _keeps_more(type(thing)):
            walk.add(list(_reduced(walk, thing)[1:3]))
        walk.each({**_slots_of(thing), **getattr(thing, "__dict__", {})})


def _add_content(walk: _Walk, thing: Any) -> None:
    """Adds what an object of a class that is derived from a container or number holds as such."""
    kinds: tuple[Any, ...] = (int, float, str, bytes, tuple, list, frozenset, set, dict, collections.deque)
    for kind in kinds:
        if isinstance(thing, kind):
            plain = kind(thing)
            walk.kept.append(plain)
            walk.add(plain)
            return


def _slots_of(thing: Any) -> dict[str, Any]:
    names = [
        name
        for base in type(thing).__mro__
        for name, value in vars(base).items()
        if isinstance(value, types.MemberDescriptorType)
    ]
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)}


def _global_name(thing: Any) -> str | None:
    """Returns the name by which an object of C's is found in its module, such as a compiled function; None for others."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{package_of_module(module)} {module}.{name}" if found is thing else None


def _add_reduced(walk: _Walk, thing: Any) -> None:
    if (name := _global_name(thing)) is not None:
        walk.token("global", name)
        return
    add_type(walk, type(thing))
    make, arguments, state, items, pairs = _reduced(walk, thing)
    walk.add(make)
    walk.add(tuple(argument for argument in arguments if argument is not type(thing)))
    walk.add(state)
    walk.add(list(items or ()))
    walk.add(list(pairs or ()))


def _keeps_more(kind: type) -> bool:
    """Tells whether a class of the user's is derived from one that is pickled in a way of its own, such as a generator's."""
    return any(
        package_of_class(base) is not None and ("__reduce__" in vars(base) or "__reduce_ex__" in vars(base))
        for base in kind.__mro__
        if base not in (object, BaseException, Exception, dict, collections.OrderedDict, collections.deque, set, frozenset)
    )


def _reduced(walk: _Walk, thing: Any) -> tuple[Any, ...]:
    """Returns what an object is pickled as, in five parts; refuses what cannot be pickled."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of iterators that will not be pickled in later versions
            reduce = copyreg.dispatch_table.get(type(thing))
            parts = thing.__reduce_ex__(4) if reduce is None else reduce(thing)
    except Exception as error:  # noqa: BLE001 - whatever it says, it cannot be pickled
        walk.refuse(thing, error)
    walk.kept.append(parts)
    return (parts, (), None, None, None) if isinstance(parts, str) else (*parts, None, None, None)[:5]


_KINDS: list[tuple[Callable[[Any], bool], Callable[[_Walk, Any], None]]] = [
    (lambda thing: isinstance(thing, Tensor), _add_tensor),
    (lambda thing: isinstance(thing, (np.ndarray, np.generic)), _add_array),
    (lambda thing: isinstance(thing, nn.Module), _add_network),
    (lambda thing: isinstance(thing, enum.Enum), _add_enum),
    (lambda thing: isinstance(thing, types.ModuleType), _add_python_module),
    (lambda thing: isinstance(thing, types.FunctionType), _add_function),
    (lambda thing: isinstance(thing, types.MethodType), _add_method),
    (lambda thing: isinstance(thing, np.ufunc), _add_ufunc),
    (lambda thing: isinstance(thing, _BUILTINS), _add_builtin),
    (lambda thing: type(thing).__name__ == "cython_function_or_method", _add_compiled),
    (lambda thing: type(thing) in _WRAPPED or isinstance(thing, functools._lru_cache_wrapper), _add_wrapped),
    (lambda thing: isinstance(thing, type), add_class),
    (lambda thing: type(thing) in (list, tuple, range, collections.deque, torch.Size), _add_items),
    (lambda thing: type(thing) in (set, frozenset), _add_set),
    (
        lambda thing: type(thing) in (dict, collections.OrderedDict, collections.defaultdict, types.MappingProxyType),
        _add_mapping,
    ),
    (lambda thing: True, _add_object),
]
