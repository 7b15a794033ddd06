"""Data sets by name, a user's own tensors, and the seeded split into train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problem.arrays import as_inputs, as_targets, encode
from evoprune.problem.arrays import is_labels as is_labels
from evoprune.problem.datasets import is_dataset, read_dataset
from evoprune.problem.examples import Examples, inputs_of
from evoprune.problem.walk_values import tensor_bytes
from evoprune.system.forks import settle

# Inputs in memory, or ones that are read batch by batch.
Inputs: TypeAlias = Tensor | Examples
Pair: TypeAlias = tuple[Inputs, Tensor]

PARTS = ("train", "validation", "test")
# Values of all inputs up to which they are kept as floats: MNIST has 55 million, CIFAR-10 184.
MOST_IN_MEMORY = 1 << 26


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and targets for training, validation (selection) and test (touched once, at the end).

    Attributes:
        train: Inputs [n, ...] and targets [n, ...], as tensors, numpy arrays, pandas data frames or lists. Targets of an
            integer type are class labels, those of a float type regression targets (or probabilities of classes). Words,
            True and False, and the values of object or categorical columns are labels, too, which are encoded. A data frame
            of inputs becomes floats (give integers that a network embeds as an array); one of a single column of
            labels gives targets [n]. Inputs may be a memory map (``numpy.memmap``), which is read batch by batch. A map-style
            ``torch.utils.data.Dataset`` of pairs, a loader of one, or rows that are dicts are taken instead of the pair.
        validation: Inputs and targets to select on; None: they are split off from ``train``.
        test: Inputs and targets for the end; None: they are split off from ``train``.
        name: Its name in records.
        classes: Names of the classes 0, 1, ...; None: where labels are encoded, the
            labels in sorted order over all parts, which then stand here; else none.
        digest: Digest of the content, see :func:`content_digest`, if it differs from the content published under the name.
        white: The value of white in images of bytes, which are then shifted and scaled as those of a named data set are, batch
            by batch; None takes inputs as they are.
        columns: Names of the input and the label, for rows that are dicts.
        identity: Name of the content of a data set that draws at random, which is read anew whenever it is used; to be changed
            whenever the data set is.

    Raises:
        InputError: A pair is empty, or its inputs and targets differ in length; values are no numbers, labels are missing, or
            a class is not in ``train``; parts differ in shape or kind.
    """

    train: Pair
    validation: Pair | None = None
    test: Pair | None = None
    name: str = "custom"
    classes: tuple[str, ...] | None = None
    digest: str | None = None
    white: int | None = None
    columns: tuple[str, str] | None = None
    identity: str | None = None

    def __post_init__(self) -> None:
        settle()  # checks and copies use threads, too
        given = {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None or part == "train"}
        inputs, targets = {}, {}
        for part, pair in given.items():
            x, y = self._read(pair, part) if is_dataset(pair) else _unpack(pair, part)
            inputs[part], targets[part] = as_inputs(x, f"{part} inputs"), as_targets(y, f"{part} targets")
        encoded, classes = encode(targets, self.classes)
        pairs = {part: (x, encoded[part]) for part, x in inputs.items()}
        _require_fitting(pairs)
        if self.white is not None:
            _require_bytes(self.white, pairs)
        for name, value in {**pairs, "classes": classes}.items():
            object.__setattr__(self, name, value)

    def _read(self, given: Any, part: str) -> tuple[Inputs, Any]:
        store, labels = read_dataset(given, self.columns, self.identity, part)
        return store if isinstance(store, Tensor) else inputs_of(store, f"{part} inputs"), labels

    def split(self, seed: int, validation_fraction: float = 0.1, test_fraction: float = 0.2) -> Data:
        """Returns the data with all three parts.

        A missing part is split off from ``train``, stratified by class where targets are classes. A part that
        is present stays as it is.

        Args:
            seed: The problem's seed; its ``split`` stream is used.
            validation_fraction: Fraction of the given training examples that becomes the validation set.
            test_fraction: Fraction of the given training examples that becomes the test set.

        Raises:
            InputError: A fraction outside (0, 1), or too few examples to split.
        """
        total = len(self.train[0])
        sizes = {}
        for part, fraction in (("test", test_fraction), ("validation", validation_fraction)):
            if getattr(self, part) is None:
                if not 0 < fraction < 1:
                    raise InputError(f"{part} fraction is {fraction}; expected a number between 0 and 1.")
                sizes[part] = max(1, round(fraction * total))
        if sum(sizes.values()) >= total:
            raise InputError(
                f"{total} training examples cannot be split into training and {sizes}; "
                f"give more examples, smaller fractions, or the parts themselves."
            )
        rng = seeds.generator(seed, "split")
        data = self
        for part, size in sizes.items():
            kept, taken = _split_indices(data.train[1], size, rng)
            x, y = data.train
            train, other = ((take(x, rows), y.index_select(0, rows)) for rows in (kept, taken))
            data = data.with_parts({"train": train, part: other})
        return data

    def to(self, device: str | torch.device) -> Data:
        """Returns the data on a device."""
        return self.with_parts({part: (x.to(device), y.to(device)) for part, (x, y) in self.parts().items()})

    def with_parts(self, parts: Mapping[str, Pair]) -> Data:
        """Returns the data with some parts replaced."""
        changes: dict[str, Any] = dict(parts)
        return replace(self, **changes)

    def parts(self) -> dict[str, Pair]:
        """Returns the parts that are present, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: pair for name, pair in parts.items() if pair is not None}


def take(x: Inputs, rows: Tensor) -> Inputs:
    """Returns some of the inputs; those that are read batch by batch are not read."""
    return x.take(rows) if isinstance(x, Examples) else x.index_select(0, rows)  # faster than x[rows]


def prepare(
    raw: Data, white: int, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.2, normalize: bool = True
) -> Data:
    """Splits images of bytes, which become shifted and scaled floats batch by batch; see :func:`load`."""
    stored = {
        part: (x if isinstance(x, Examples) else inputs_of(x, f"{part} inputs"), y) for part, (x, y) in raw.parts().items()
    }
    data = raw.with_parts(stored).split(seed, validation_fraction, test_fraction)
    images = data.train[0]
    assert isinstance(images, Examples)
    mean, std = _pixel_statistics(images) if normalize else (torch.zeros(()), torch.tensor(float(white)))
    parts = data.parts().items()
    normalised = {part: (x.normalised(mean, std), y) for part, (x, y) in parts if isinstance(x, Examples)}
    return replace(data, white=None).with_parts(normalised)


def in_memory(data: Data, most: int) -> Data:
    """Returns the data with all inputs read, if they are at most so many values: floats train faster than bytes do."""
    lazy = {part: pair for part, pair in data.parts().items() if isinstance(pair[0], Examples)}
    size = sum(x.numel() for x, _ in lazy.values())
    if size > most or not all(isinstance(x, Examples) and isinstance(x.store, Tensor) for x, _ in lazy.values()):
        return data
    return data.with_parts({part: (x[:], y) for part, (x, y) in lazy.items()})


def content_digest(data: Data) -> str:
    """Returns the SHA-256 of all parts that are present, as they are stored, and of the names of the classes, in hex.

    Args:
        data: The data, before they are cast, split or normalised.
    """
    digest = hashlib.sha256(repr(data.classes).encode())
    for part, pair in data.parts().items():
        for kind, values in zip(("inputs", "targets"), pair, strict=True):
            digest.update(f"{part} {kind} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(tensor_bytes(values) if isinstance(values, Tensor) else values.identity().encode())
    return digest.hexdigest()


def count_classes(data: Data) -> int:
    """Returns the number of classes: that of their names, or one more than the largest label of all parts.

    Raises:
        InputError: A negative label, or one far beyond the number of different labels.
    """
    if data.classes is not None:
        return len(data.classes)
    labels = torch.cat([torch.unique(y) for _, y in data.parts().values()]).unique()  # type: ignore[no-untyped-call]
    low, high, different = int(labels[0]), int(labels[-1]), len(labels)
    if low < 0 or (high >= 100 and high >= 10 * different):
        raise InputError(
            f"targets are {different} different integers from {low} to {high}, thus class labels; expected 0 to "
            f"{different - 1}: give numpy.unique(y, return_inverse=True)[1], or for regression floats and loss='mse'."
        )
    return high + 1


def as_floats(data: Data, dtype: torch.dtype) -> Data:
    """Returns the data with inputs of a float type, for networks that embed no integers.

    Raises:
        InputError: Some parts have integers and others floats, which may be scaled differently.
    """
    for part, (x, _) in data.parts().items():
        if is_labels(x) != is_labels(data.train[0]):
            raise InputError(
                f"{part} inputs are {x.dtype}, train inputs {data.train[0].dtype}; expected the same: give floats of one scale."
            )
    return data.with_parts({part: (_as_float(x, part, dtype), y) for part, (x, y) in data.parts().items()})


def _as_float(x: Inputs, part: str, dtype: torch.dtype) -> Inputs:
    """Bytes become floats batch by batch where they are many."""
    many = isinstance(x, Tensor) and x.dtype == torch.uint8 and x.numel() > MOST_IN_MEMORY
    return inputs_of(x, f"{part} inputs").to(dtype) if isinstance(x, Tensor) and many else x.to(dtype)


def _unpack(pair: Any, part: str) -> tuple[Any, Any]:
    try:
        x, y = pair
    except (TypeError, ValueError) as error:
        raise InputError(f"{part} is {type(pair).__name__}; expected (inputs, targets): {error}.") from error
    return x, y


def _require_bytes(white: Any, pairs: Mapping[str, Pair]) -> None:
    """Checks that inputs with a value of white are images of bytes."""
    if isinstance(white, bool) or not isinstance(white, int) or not 1 <= white <= 255:
        raise InputError(f"white is {white!r}; expected an integer from 1 to 255, the value of white in images of bytes.")
    for part, (x, _) in pairs.items():
        read = x if isinstance(x, Tensor) else x.raw(torch.arange(1))
        if read.dtype != torch.uint8:
            raise InputError(
                f"white is {white}, but {part} inputs are {read.dtype}; expected bytes (uint8). Leave white out for "
                f"inputs that are scaled already."
            )


def _require_fitting(pairs: Mapping[str, Pair]) -> None:
    """Checks that inputs and targets have the same length, and all parts the same shapes and kinds."""
    for part, (x, y) in pairs.items():
        if x.ndim < 2 or y.ndim < 1 or len(x) != len(y) or not x.numel() or not y.numel():
            raise InputError(
                f"{part} has inputs {tuple(x.shape)} and targets {tuple(y.shape)}; expected [n, ...] and [n, ...] "
                f"with the same n > 0{'; a single feature is x[:, None]' if x.ndim == 1 else ''}."
            )
    x0, y0 = pairs["train"]
    for part, (x, y) in pairs.items():
        if x.shape[1:] != x0.shape[1:]:
            raise InputError(
                f"{part} has inputs {tuple(x.shape)}, train has {tuple(x0.shape)}; expected the same shape behind the number "
                f"of examples."
            )
        facts = [f"{'labels' if is_labels(t) else 'floats'} [n{''.join(f', {i}' for i in t.shape[1:])}]" for t in (y, y0)]
        if facts[0] != facts[1]:
            same = is_labels(y) == is_labels(y0) and y[0].numel() == y0[0].numel()
            cure = f": give y.reshape({', '.join(map(str, (-1, *y0.shape[1:])))})" if same else ""
            raise InputError(f"{part} has targets that are {facts[0]}, train has {facts[1]}; expected the same{cure}.")


def _split_indices(y: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draws ``size`` rows with each class's share (rounded by largest remainder); returns the other rows and these, ascending.

    scikit-learn's ``train_test_split`` does the same, but importing it takes 1.3 s and 110 MB in every worker.
    """
    if is_labels(y) and y.ndim == 1:
        _, classes, counts = np.unique(y.cpu().numpy(), return_inverse=True, return_counts=True)
    else:
        classes, counts = np.zeros(len(y), np.int64), np.array([len(y)])
    exact = counts * size / len(y)
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: size - shares.sum()]] += 1
    rows = [rng.permutation(np.flatnonzero(classes == c))[:share] for c, share in enumerate(shares)]
    taken = np.zeros(len(y), bool)
    taken[np.concatenate(rows)] = True
    return torch.from_numpy(np.flatnonzero(~taken)), torch.from_numpy(np.flatnonzero(taken))


def _pixel_statistics(images: Examples) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each channel, [channels, 1, 1]; of all values where there are no channels."""
    # over the histogram of the 256 byte values: exact, and without a float copy of the images
    channels = images.shape[1] if images.ndim == 4 else 1
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for piece in images.pieces():
        values = piece.transpose(0, 1) if images.ndim == 4 else piece[None]
        counts += torch.stack([torch.bincount(each.flatten(), minlength=256) for each in values])
    total, bytes_ = counts.sum(1), torch.arange(256, dtype=torch.float64)
    mean = (counts * bytes_).sum(1) / total
    variance = (counts * (bytes_ - mean[:, None]) ** 2).sum(1) / total
    shape = (channels, *[1] * (images.ndim - 2))
    std = variance.sqrt()
    std[std == 0] = 1.0  # a channel of one value becomes zeros
    return mean.view(shape), std.view(shape)
