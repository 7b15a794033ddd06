"""Tensors in files: safetensors, read without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evoprune.system.files import write_atomically


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Returns the content of a safetensors file; tied tensors are written out."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return save(plain, None if metadata is None else dict(metadata))


def parts_of(content: bytes) -> tuple[dict[str, Any], dict[str, str] | None, memoryview]:
    """Returns the parts of a safetensors file: its header, its metadata, None if it has none, and the tensors' values.

    Raises:
        ValueError: The content is damaged.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if not isinstance(header, dict):
        raise ValueError("it is no safetensors file")
    return header, header.pop("__metadata__", None), memoryview(content)[end:]


def unpack_tensors(content: bytes) -> dict[str, Tensor]:
    """Returns the tensors of the content of a safetensors file.

    Raises:
        ValueError: The content is damaged.
    """
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes safetensors atomically; see :func:`pack_tensors`."""
    write_atomically(path, pack_tensors(tensors))
