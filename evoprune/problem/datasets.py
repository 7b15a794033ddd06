"""Data sets of PyTorch's kind: one item after another, an input and a label each, or rows with columns."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problem.filearray import FileArray, file_array

# Items that are read twice, to find data sets that draw at random.
TWICE = 32
# Bytes of the inputs up to which they are kept in memory.
MOST_IN_MEMORY = 1 << 28
CURE = "give the data set without its random transforms, and augment=('crop:4', 'flip') or a function to ep.Problem"


class Items:
    """Inputs that a data set makes whenever they are read, with draws from the global generators, which are seeded.

    Args:
        dataset: The data set.
        columns: Names of the input and the label in a row; None for pairs.
        first: The first input.
        name: The name that the user gives it, which stands for its content.
    """

    def __init__(self, dataset: Any, columns: tuple[str, str] | None, first: Tensor, name: str) -> None:
        self.dataset, self.columns, self.name = dataset, columns, name
        self.shape, self.dtype = (len(dataset), *first.shape), first.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def read(self, rows: Tensor, draw: int | None = None) -> Tensor:
        """Returns the inputs of some rows.

        Args:
            rows: Their numbers [b].
            draw: Seeds all that the data set draws; None: the first row, so that no other draw matters.
        """
        found = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        numbers = rows.tolist()
        with seeds.seeded(draw if draw is not None else sum(numbers[:1])):
            for place, row in enumerate(numbers):
                x, _ = _pair(self.dataset, row, self.columns)
                _require_same(x, self.shape[1:], self.dtype, row)
                found[place] = x
        return found

    @property
    def named_by(self) -> str:
        """How the content is identified."""
        return f"the name {self.name}"

    def identity(self) -> str:
        """Returns the name that stands for the content."""
        return f"items {self.name}"


def is_dataset(values: object) -> bool:
    """Tells whether a part of the data is a data set or a loader, and no pair of inputs and targets."""
    if isinstance(values, (torch.utils.data.Dataset, DataLoader)):
        return True
    plain = isinstance(values, (tuple, list, str, bytes, Mapping, Tensor, np.ndarray))
    is_frame = any(base.__module__.partition(".")[0] == "pandas" for base in type(values).__mro__)
    return not plain and not is_frame and hasattr(values, "__getitem__") and hasattr(values, "__len__")


def read_dataset(
    given: Any, columns: Sequence[str] | None, identity: str | None, part: str
) -> tuple[Tensor | FileArray | Items, list[Any]]:
    """Reads a data set once, item by item; large inputs are written to a temporary file, which is mapped into memory.

    Args:
        given: A map-style data set, or a loader of one.
        columns: Names of the input and the label in rows that are dicts; None for pairs.
        identity: A name for the content, which allows the data set to draw at random: it is then read whenever it is used.
        part: Its name in messages.

    Returns:
        The inputs [n, ...], and the labels.

    Raises:
        InputError: It is not map-style, is empty, draws at random without a name, or has items that differ in shape or type.
    """
    dataset = _map_style(given, part)
    names = None if columns is None else _two(columns)
    first, _ = _pair(dataset, 0, names)
    draws = _draws_at_random(dataset, names)
    if draws and not identity:
        raise InputError(
            f"the {part} data set draws at random ({draws}), so its content cannot be told from another's; {CURE}; or name it "
            f"by ep.Data(identity='...'), and it is read anew whenever it is used."
        )
    labels: list[Any] = []
    if draws and identity:
        with seeds.seeded(0):
            labels = [_pair(dataset, row, names)[1] for row in range(len(dataset))]
        return Items(dataset, names, first, identity), labels
    return _inputs(dataset, names, first, labels), labels


def _inputs(dataset: Any, columns: tuple[str, str] | None, first: Tensor, labels: list[Any]) -> Tensor | FileArray:
    """Reads all items; inputs that take much memory are written to a file."""
    shape = (len(dataset), *first.shape)
    size, dtype = math.prod(shape) * first.element_size(), first.numpy().dtype
    if size <= MOST_IN_MEMORY:
        return torch.from_numpy(_filled(np.empty(shape, dtype), dataset, columns, labels))
    folder = Path(tempfile.mkdtemp(prefix="evoprune-data-"))
    array = np.lib.format.open_memmap(folder / "inputs.npy", "w+", dtype, shape)
    _filled(array, dataset, columns, labels)
    array.flush()
    found = file_array(array, "inputs")
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for start in range(0, len(array), TWICE):
        digest.update(np.ascontiguousarray(array[start : start + TWICE]).data)
    found.digest = digest.hexdigest()
    weakref.finalize(found, _remove, folder, os.getpid())
    return found


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # and not in a process that was forked
        shutil.rmtree(folder, ignore_errors=True)


def _filled(array: NDArray[Any], dataset: Any, columns: tuple[str, str] | None, labels: list[Any]) -> NDArray[Any]:
    dtype = torch.from_numpy(array[:0]).dtype
    for row, (x, y) in enumerate(_pairs(dataset, columns)):
        _require_same(x, array.shape[1:], dtype, row)
        array[row] = x.numpy()
        labels.append(y)
    return array


def _pairs(dataset: Any, columns: tuple[str, str] | None) -> Iterator[tuple[Tensor, Any]]:
    for row in range(len(dataset)):
        yield _pair(dataset, row, columns)


def _pair(dataset: Any, row: int, columns: tuple[str, str] | None) -> tuple[Tensor, Any]:
    """Returns the input of an item as a tensor, and its label."""
    try:
        item = dataset[row]
    except Exception as error:
        raise InputError(f"the data set cannot give item {row} of {len(dataset)}: {type(error).__name__}: {error}.") from error
    if isinstance(item, Mapping):
        if columns is None or any(name not in item for name in columns):
            wanted = f"{columns} are not all among them" if columns else "expected to know which two are input and label"
            raise InputError(
                f"the rows of the data set have the columns {', '.join(map(repr, item))}; {wanted}: give "
                f"ep.Data(columns=('image', 'label')), say."
            )
        item = item[columns[0]], item[columns[1]]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        found = f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
        raise InputError(f"item {row} of the data set is {found}; expected an input and a label, or a row with columns.")
    return _input(item[0], row), item[1]


def _input(value: Any, row: int) -> Tensor:
    """Returns an input as a tensor; an image of Pillow's becomes [channels, height, width]."""
    if hasattr(value, "getbands"):
        pixels = np.array(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    try:
        found = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the input of item {row} is {type(value).__name__}; expected a tensor, an array, numbers or an image ({error})."
        ) from error
    if not found.ndim:
        return found.reshape(1)
    return found.contiguous()


def _require_same(x: Tensor, shape: Sequence[int], dtype: torch.dtype, row: int) -> None:
    if tuple(x.shape) != tuple(shape) or x.dtype != dtype:
        raise InputError(
            f"item {row} of the data set has an input {tuple(x.shape)} of {x.dtype}, item 0 one {tuple(shape)} of {dtype}; "
            f"expected the same of all: resize or crop the images, say, in the data set's transform."
        )


def _draws_at_random(dataset: Any, columns: tuple[str, str] | None) -> str:
    """Reads the first items twice; returns the place of the first difference in words, empty if there is none."""
    rows = range(min(TWICE, len(dataset)))
    with seeds.seeded(0):  # which leaves the user's generators as they are
        reads = [[_pair(dataset, row, columns) for row in rows] for _ in range(2)]
    for row, (one, other) in enumerate(zip(*reads, strict=True)):
        if one[0].shape != other[0].shape or not torch.equal(one[0], other[0]):
            return f"item {row} differs between two reads"
        if not np.array_equal(np.asarray(one[1]), np.asarray(other[1])):
            return f"the label of item {row} differs between two reads"
    return ""


def _map_style(given: Any, part: str) -> Any:
    """Returns the data set, that of a loader if it is one.

    Raises:
        InputError: It has no length or no items by number, or the loader makes other batches than the recipe's.
    """
    dataset = given
    if isinstance(given, DataLoader):
        dataset, sampler = given.dataset, given.sampler
        plain = type(sampler) in (RandomSampler, SequentialSampler) and type(given.batch_sampler) in (BatchSampler, type(None))
        if not plain or given.collate_fn is not default_collate or getattr(sampler, "replacement", False):
            raise InputError(
                f"{part} is a DataLoader with a special sampler or collate_fn, which decide what a network sees; expected a "
                f"plain one. Give the data set itself, or one that has its items as they should be: batches follow the recipe."
            )
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputError(
            f"{part} is {type(dataset).__name__}, whose items have no numbers; expected a map-style data set, with __len__ and "
            f"__getitem__."
        )
    if not len(dataset):
        raise InputError(f"the {part} data set is empty; expected items.")
    return dataset


def _two(columns: Sequence[str]) -> tuple[str, str]:
    if isinstance(columns, str) or len(columns) != 2:
        raise InputError(f"columns are {columns!r}; expected two names, of the input and of the label.")
    return columns[0], columns[1]
