"""Data sets that have a name, and the data of a problem."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.errors import InputError
from evoprune.options import accepted
from evoprune.problem.data import MOST_IN_MEMORY, Data, as_floats, content_digest, in_memory, prepare
from evoprune.problem.examples import Examples
from evoprune.problem.idx import load_idx, unpublished
from evoprune.problem.options import ProblemOptions
from evoprune.problem.readers.cifar import load_cifar
from evoprune.problem.readers.emnist import EMNIST, load_emnist
from evoprune.problem.readers.image_folder import load_image_folder
from evoprune.problem.readers.place import IMAGE_FOLDER, located
from evoprune.registry import Registry

# Called with the name and the folder; returns the data as they are stored, and their white: None where they are no images.
Loader: TypeAlias = Callable[[str, str | os.PathLike[str] | None], tuple[Data, int | None]]

# content_digest of scikit-learn's digits
_DIGITS = "8f7d414872ebfafc9725df1780b0a3f251ea93f7f99d775254aeb688d258587a"


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    normalize: bool = True,
) -> Data:
    """Loads a data set by name and splits it.

    Args:
        name: ``digits`` (scikit-learn's 1,797 images of 8 x 8, embedded), ``mnist``, ``fashion-mnist`` or ``kmnist``
            (60,000 + 10,000 images of 28 x 28; the published test set stays the test set), ``emnist`` and its selections (see
            :func:`evoprune.problem.readers.emnist.load_emnist`), ``cifar10`` or ``cifar100`` (50,000 + 10,000 images of
            3 x 32 x 32), ``image-folder:PATH`` (see :func:`evoprune.problem.readers.image_folder.load_image_folder`), or one
            that is registered.
        data_dir: Folder of the data set's files, or of their archive; they may also lie in a sub-folder named after the data
            set, or in the one that torchvision uses. Without it the environment variable
            ``EVOPRUNE_DATA`` is used, and without that they are downloaded once and cached.
        seed: Seeds the split.
        validation_fraction: See :meth:`Data.split`.
        test_fraction: See :meth:`Data.split`; only for data without a published test set.
        normalize: Subtract the mean of the training pixels and divide by their standard deviation. Otherwise
            pixels lie in [0, 1]. Data of a registered function stay as they are.

    Returns:
        Float32 images [n, channels, height, width] and int64 labels [n]; the data of a registered function as they are.

    Warns:
        UserWarning: The content differs from the content that is published under the name.

    Raises:
        InputError: An unknown name, or a file that is missing, truncated, of another kind, or of another published data set.
    """
    raw, white = load_raw(name, data_dir)
    if white is None:
        return raw.split(seed, validation_fraction, test_fraction)
    return in_memory(prepare(raw, white, seed, validation_fraction, test_fraction, normalize), sys.maxsize)


def load_raw(data: str | Callable[..., Data], data_dir: str | os.PathLike[str] | None = None) -> tuple[Data, int | None]:
    """Returns a data set as it is stored, before any split or normalisation, and its value of white.

    Args:
        data: Its name, see :func:`load`, or a function that makes it.
        data_dir: See :func:`load`.

    Raises:
        InputError: An unknown name, or a file that is missing, truncated or of another kind.
    """
    if isinstance(data, str):
        _require_no_path(data, data_dir)
        data, data_dir = located(data, data_dir)
    return DATA.find(data)(DATA.name_of(data), data_dir)


def _require_no_path(name: str, data_dir: str | os.PathLike[str] | None) -> None:
    """Checks that no path is given in the place of a name."""
    if DATA.is_built_in(name) or name in DATA or DATA.is_in_file(name):
        return
    for base in (data_dir or os.environ.get("EVOPRUNE_DATA") or "", ""):
        path = os.path.join(os.path.expanduser(base), os.path.expanduser(name))  # noqa: PTH111, PTH118 - Path's raises for odd names
        if name and (os.path.isdir(path) or (name.endswith(".zip") and os.path.isfile(path))):  # noqa: PTH112, PTH113
            raise InputError(
                f"unknown data set {name!r}, which is a folder or zip; expected image-folder:{name} for one of class folders, "
                f"or the name of a data set."
            )
        if name and not name.endswith(".py") and os.path.isfile(path):  # noqa: PTH113
            raise InputError(
                f"unknown data set {name!r}, which is a file; expected a function that reads it and returns ep.Data, by "
                f"path/to/file.py:function, or the name of a data set."
            )


@dataclass(frozen=True)
class Loaded:
    """The data of a problem.

    Attributes:
        data: All parts, cast and on the device.
        own: The user's own data as they were given; None for data that this package loads by name.
        content: The digest of the stored data if they are not kept, else empty; see
            :func:`evoprune.problem.data.content_digest`.
        stored: The parts that were not split off.
    """

    data: Data
    own: Data | None
    content: str
    stored: tuple[str, ...]

    @property
    def named_by(self) -> dict[str, str]:
        """How parts of the user's data are identified, by part, where that is not the digest of their content."""
        given = {part: x for part, (x, _) in self.own.parts().items()} if self.own is not None else {}
        return {part: x.named_by for part, x in given.items() if isinstance(x, Examples) and x.named_by}

    def identity(self, options: ProblemOptions) -> list[Any]:
        """Returns the digest of the content and all that decides how it is split and normalised."""
        content = self.content if self.own is None else content_digest(self.own)
        white = [] if self.own is None or self.own.white is None else [self.own.white]
        fractions = {
            part: fraction
            for part, fraction in (("validation", options.validation_fraction), ("test", options.test_fraction))
            if part not in self.stored
        }
        return [content, fractions, options.normalize if self.own is None or white else None, *white]


def load_for_problem(given: object, options: ProblemOptions, as_float: bool) -> Loaded:
    """Loads and splits the data of a problem.

    Args:
        given: A name, a function that makes :class:`evoprune.problem.data.Data`, or such data.
        options: The problem's options.
        as_float: Turn integer inputs into floats, for networks that embed no integers.

    Raises:
        InputError: Another thing was given, or the data cannot be loaded or split.
    """
    if isinstance(given, Data):
        raw, loaded = _copied(given), None
    elif isinstance(given, str) or callable(given):
        raw, loaded = load_raw(given, options.data_dir)
    else:
        raise InputError(f"data is {type(given).__name__}; expected a name or ep.Data(train=(x, y)).")
    fractions = options.validation_fraction, options.test_fraction
    white = loaded or raw.white
    if white is None:
        data = raw.split(options.seed, *fractions)
    else:
        data = prepare(raw, white, options.seed, *fractions, options.normalize)
    dtype = getattr(torch, options.dtype)
    if as_float:
        data = as_floats(data, dtype)
    cast = {
        part: tuple(values.to(dtype) if values.is_floating_point() else values for values in pair)
        for part, pair in data.parts().items()
    }
    data = data.with_parts(cast)  # type: ignore[arg-type]
    if not options.augment:  # which changes images as they are stored
        data = in_memory(data, MOST_IN_MEMORY)
    kept = raw if loaded is None else None
    content = "" if loaded is None else content_digest(raw)  # now, since the stored data are not kept
    return Loaded(data.to(options.device), kept, content, tuple(raw.parts()))


def place(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Returns the folder as an absolute path, for other processes; None if each host has its own EVOPRUNE_DATA."""
    given = data_dir or os.environ.get("EVOPRUNE_DATA")
    if given is None or (data_dir is None and os.path.isabs(given)):  # noqa: PTH117
        return None
    return Path(os.path.abspath(os.path.expanduser(given)))  # noqa: PTH100, PTH111


def _copied(data: Data) -> Data:
    """Returns the data with copies of the tensors, on the CPU."""
    parts = data.parts().items()
    return data.with_parts(
        {part: (x.to("cpu", copy=True) if isinstance(x, Tensor) else x, y.to("cpu", copy=True)) for part, (x, y) in parts}
    )


def _load_digits(name: str, data_dir: object) -> tuple[Data, int | None]:
    pixels, labels = _read_digits()
    images = torch.from_numpy(pixels.astype(np.uint8).reshape(-1, 1, 8, 8))
    data = Data(train=(images, torch.from_numpy(labels.astype(np.int64))), name=name)
    return (data if content_digest(data) == _DIGITS else unpublished(data, "scikit-learn's digits", [])), 16


def _read_digits() -> tuple[NDArray[np.floating[Any]], NDArray[Any]]:
    """Reads scikit-learn's digits from its file: importing scikit-learn takes 1.6 s in every worker."""
    spec = find_spec("sklearn")
    path = Path(spec.origin or "").with_name("datasets") / "data" / "digits.csv.gz" if spec is not None else Path()
    if path.is_file():
        rows = np.loadtxt(path, delimiter=",")
        return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits  # a version that keeps the file elsewhere

    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels


def _as_loader(function: Callable[..., Data]) -> Loader:
    """Makes an entry of a user's function, which returns the data and may take ``data_dir``."""
    if not callable(function):
        raise InputError(f"the data set is {type(function).__name__}; expected a name, or a function that returns ep.Data.")
    return functools.partial(_load_own, function)


def _load_own(function: Callable[..., Any], name: str, data_dir: object) -> tuple[Data, None]:
    try:
        data = function(**accepted(function, {"data_dir": data_dir}))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the data set {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(data, Data):
        raise InputError(f"the data set {name!r} is {type(data).__name__}; expected ep.Data(train=(x, y)).")
    return replace(data, name=name), None


DATA: Registry[Loader] = Registry(
    "data set",
    {
        "digits": _load_digits,
        **dict.fromkeys(("mnist", "fashion-mnist", "kmnist"), load_idx),
        **dict.fromkeys(EMNIST, load_emnist),
        **dict.fromkeys(("cifar10", "cifar100"), load_cifar),
    },
    _as_loader,
    families={IMAGE_FOLDER: lambda path: load_image_folder},
    takes_files=True,
    meant={"emnist-balanced": "emnist", "balanced": "emnist", "fmnist": "fashion-mnist"},
)
