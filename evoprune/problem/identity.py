"""Identity: a digest of a value that is the same in every process, and another for values that behave differently.

The user's own code counts by its source: functions with their defaults, closures and the globals that they read, classes with
their bases, objects with all their attributes. Installed packages count by name and version. A value that cannot be told apart
from another, such as an open file, is refused by name.
"""

from __future__ import annotations

import collections
import enum
import functools
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.problem.walk import BUILTINS, WRAPPED, Kind, UnidentifiedError, Walk
from evoprune.problem.walk_code import (
    add_builtin,
    add_compiled,
    add_function,
    add_method,
    add_python_module,
    add_ufunc,
    add_wrapped,
)  # fmt: skip
from evoprune.problem.walk_objects import add_class, add_network, add_object
from evoprune.problem.walk_values import add_array, add_enum, add_items, add_mapping, add_set, add_tensor

# Raised whenever a value's digest changes its meaning; run folders of another version are refused.
VERSION = 2

# The kinds of values; the first that fits is taken.
KINDS: tuple[Kind, ...] = (
    (lambda thing: isinstance(thing, Tensor), add_tensor),
    (lambda thing: isinstance(thing, (np.ndarray, np.generic)), add_array),
    (lambda thing: isinstance(thing, nn.Module), add_network),
    (lambda thing: isinstance(thing, enum.Enum), add_enum),
    (lambda thing: isinstance(thing, types.ModuleType), add_python_module),
    (lambda thing: isinstance(thing, types.FunctionType), add_function),
    (lambda thing: isinstance(thing, types.MethodType), add_method),
    (lambda thing: isinstance(thing, np.ufunc), add_ufunc),
    (lambda thing: isinstance(thing, BUILTINS), add_builtin),
    (lambda thing: type(thing).__name__ == "cython_function_or_method", add_compiled),
    (lambda thing: type(thing) in WRAPPED or isinstance(thing, functools._lru_cache_wrapper), add_wrapped),
    (lambda thing: isinstance(thing, type), add_class),
    (lambda thing: type(thing) in (list, tuple, range, collections.deque, torch.Size), add_items),
    (lambda thing: type(thing) in (set, frozenset), add_set),
    (
        lambda thing: type(thing) in (dict, collections.OrderedDict, collections.defaultdict, types.MappingProxyType),
        add_mapping,
    ),
    (lambda thing: True, add_object),
)


@dataclass(frozen=True)
class Identified:
    """A value's digest, and the text of its code.

    Attributes:
        digest: SHA-256 in hex.
        texts: The text of each piece of its code by :func:`evoprune.problem.usercode.key_of`.
    """

    digest: str
    texts: dict[str, str]


def identify(name: str, thing: Any, ignore: Sequence[str] = (), known: Mapping[int, str] | None = None) -> Identified:
    """Identifies a value.

    Args:
        name: Its name in errors.
        thing: The value.
        ignore: Names of attributes and globals that do not count, wherever they are: ``log``, or ``Net.log`` for those whose
            path ends so.
        known: Names of objects by ``id``, such as parameters, whose content is counted elsewhere.

    Raises:
        UnidentifiedError: It holds something that cannot be identified.
    """
    walk = Walk(KINDS, ignore, known or {})
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
