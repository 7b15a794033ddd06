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
from evoprune.problem.walk_values import tensor_bytes
from evoprune.system.forks import settle

Pair: TypeAlias = tuple[Tensor, Tensor]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and targets for training, validation (selection) and test (touched once, at the end).

    Attributes:
        train: Inputs [n, ...] and targets [n, ...], as tensors, numpy arrays, pandas data frames or lists. Targets of an
            integer type are class labels, those of a float type regression targets (or probabilities of classes). Words,
            True and False, and the values of object or categorical columns are labels, too, which are encoded. A data frame
            of inputs becomes floats (give integers that a network embeds as an array); one of a single column of
            labels gives targets [n].
        validation: Inputs and targets to select on; None: they are split off from ``train``.
        test: Inputs and targets for the end; None: they are split off from ``train``.
        name: Its name in records.
        classes: Names of the classes 0, 1, ...; None: where labels are encoded, the
            labels in sorted order over all parts, which then stand here; else none.
        digest: Digest of the content, see :func:`content_digest`, if it differs from the content published under the name.

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

    def __post_init__(self) -> None:
        settle()  # checks and copies use threads, too
        given = {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None or part == "train"}
        inputs, targets = {}, {}
        for part, pair in given.items():
            x, y = _unpack(pair, part)
            inputs[part], targets[part] = as_inputs(x, f"{part} inputs"), as_targets(y, f"{part} targets")
        encoded, classes = encode(targets, self.classes)
        pairs = {part: (x, encoded[part]) for part, x in inputs.items()}
        _require_fitting(pairs)
        for name, value in {**pairs, "classes": classes}.items():
            object.__setattr__(self, name, value)

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
            # faster than x[kept]
            train, other = ((x.index_select(0, i.to(x.device)), y.index_select(0, i.to(y.device))) for i in (kept, taken))
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


def prepare(
    raw: Data, white: int, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.2, normalize: bool = True
) -> Data:
    """Splits images of bytes and makes them floats; see :func:`load`."""
    data = raw.split(seed, validation_fraction, test_fraction)
    mean, std = _pixel_statistics(data.train[0]) if normalize else (0.0, float(white))
    # one part after another, so that the data are never in memory twice as floats
    return data.with_parts({part: (x.float().sub_(mean).div_(std), y) for part, (x, y) in data.parts().items()})


def content_digest(data: Data) -> str:
    """Returns the SHA-256 of all parts that are present, as they are stored, and of the names of the classes, in hex.

    Args:
        data: The data, before they are cast, split or normalised.
    """
    digest = hashlib.sha256(repr(data.classes).encode())
    for part, pair in data.parts().items():
        for kind, tensor in zip(("inputs", "targets"), pair, strict=True):
            digest.update(f"{part} {kind} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
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
    return data.with_parts({part: (x.to(dtype), y) for part, (x, y) in data.parts().items()})


def _unpack(pair: Any, part: str) -> tuple[Any, Any]:
    try:
        x, y = pair
    except (TypeError, ValueError) as error:
        raise InputError(f"{part} is {type(pair).__name__}; expected (inputs, targets): {error}.") from error
    return x, y


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


def _pixel_statistics(images: Tensor) -> tuple[float, float]:
    # over the histogram of the 256 byte values: exact, and without a float copy of the images
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64)
    mean = float((counts * values).sum() / counts.sum())
    variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
    return mean, variance**0.5
