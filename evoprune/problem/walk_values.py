"""How plain values enter a digest: tensors, arrays and containers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.problem.walk import Walk
from evoprune.problem.walk_objects import add_class, add_type


def tensor_bytes(tensor: Tensor) -> Any:
    """Returns a tensor's values as a buffer, wherever it lies."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data


def add_tensor(walk: Walk, tensor: Tensor) -> None:
    """Adds a tensor: its kind, the memory that it shares, its values and its attributes."""
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


def add_array(walk: Walk, array: Any) -> None:
    """Adds an array of numpy's, or one of its numbers."""
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


def add_items(walk: Walk, items: Sequence[Any]) -> None:
    """Adds a sequence, in its order."""
    if isinstance(items, (tuple, range)) or walk.is_new("items", items):
        walk.token(type(items).__name__, len(items), getattr(items, "maxlen", None))
        for i, item in enumerate(items):
            with walk.at(str(i)):
                walk.add(item)


def add_mapping(walk: Walk, mapping: Any) -> None:
    """Adds a dictionary, in its order, without the keys that are ignored."""
    if not walk.is_new("mapping", mapping):
        return
    pairs = [(key, value) for key, value in mapping.items() if not (isinstance(key, str) and walk.ignores(key))]
    walk.token(type(mapping).__name__, len(pairs))
    walk.add(getattr(mapping, "default_factory", None))
    for key, value in pairs:
        walk.add(key)
        with walk.at(str(key)):
            walk.add(value)


def add_set(walk: Walk, items: Any) -> None:
    """Adds a set, in the order of its elements' digests."""

    def digest(item: Any) -> str:
        inner = Walk(walk.kinds, walk.ignore, walk.known)
        inner.path = list(walk.path)
        inner.add(item)
        walk.texts |= inner.texts
        return inner.digest.hexdigest()

    walk.token(type(items).__name__, *sorted(map(digest, items)))


def add_enum(walk: Walk, member: enum.Enum) -> None:
    """Adds a member of an enumeration."""
    add_class(walk, type(member))
    walk.token(member.name)
