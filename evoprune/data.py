"""Data sets by name, a user's own tensors, and the seeded split into train, validation and test."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import stat
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.arrays import as_inputs, as_targets, encode
from evoprune.arrays import is_labels as is_labels
from evoprune.errors import InputError, look_up
from evoprune.forks import settle
from evoprune.identity import tensor_bytes

Pair: TypeAlias = tuple[Tensor, Tensor]

PARTS = ("train", "validation", "test")

_IDX_FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}


_CURE = "fetch it anew, or name another folder with --data-dir or EVOPRUNE_DATA"

# A gzip'd file may hold so many bytes, or so many times its own size: MNIST has 47 million, 5 times the file's.
_MOST_BYTES, _MOST_RATIO = 1 << 26, 100


@dataclass(frozen=True)
class _Published:
    """Where a data set of four IDX files is published.

    Attributes:
        url: The folder.
        torchvision_folder: Where torchvision keeps them.
        md5: Sums of the gzip'd files, by what they hold.
        sha256: Sums of their content, likewise.
    """

    url: str
    torchvision_folder: str
    md5: dict[str, str]
    sha256: dict[str, str]


_PUBLISHED = {
    "mnist": _Published(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "MNIST/raw",
        {
            "train images": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train labels": "d53e105ee54ea40749a09fcbcd1e9432",
            "test images": "9fb629c4189551a2d022fa330f9573f3",
            "test labels": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        {
            "train images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "test images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "test labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": _Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "FashionMNIST/raw",
        {
            "train images": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train labels": "25c81989df183df01b3e8a0aad5dffbe",
            "test images": "bef4ecab320f06d8554ea6380940ec79",
            "test labels": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        {
            "train images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "test images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "test labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
}

# Kuzushiji-MNIST has the same file names; of its content no sums are published, of its archives there are.
_KMNIST_MD5 = {
    "train images": "bdb82020997e1d708af4cf47b453dcf7",
    "train labels": "e144d726b3acfaa3e44228e80efcd344",
    "test images": "5c965bf0a639b31b8f53240b1b52f4d7",
    "test labels": "7320c461ea6c1c855c0b718fb2a4b134",
}

# content_digest of scikit-learn's digits
_DIGITS = "8f7d414872ebfafc9725df1780b0a3f251ea93f7f99d775254aeb688d258587a"


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and targets for training, validation (selection) and test (touched once, at the end).

    Attributes:
        train: Inputs [n, ...] and targets [n, ...], as tensors, numpy arrays, pandas data frames or lists. Targets of an
            integer type are class labels, those of a float type regression targets (or probabilities of classes). Words,
            True and False, and the values of object or categorical columns are labels, too, which are encoded. A data frame
            of inputs becomes floats (integers that a network embeds are to be given as an array); one of a single column of
            labels gives targets [n].
        validation: Likewise, or None: split off from ``train``.
        test: Likewise, or None: split off from ``train``.
        name: What records call it.
        classes: Names of the classes 0, 1, ...; None: the labels, in sorted order over all parts, where they are encoded
            (their names are then here), else none.
        digest: Of data by name whose content is not the published one: the content's, see :func:`content_digest`.

    Raises:
        InputError: A pair is empty, or its inputs and targets differ in length; values that are no numbers, missing
            labels, or a class that ``train`` has not; parts that differ in shape or kind.
    """

    train: Pair
    validation: Pair | None = None
    test: Pair | None = None
    name: str = "custom"
    classes: tuple[str, ...] | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        settle()  # checks and copies are threaded work, too
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
        """Returns the data with every part present.

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
            data = data.with_parts({"train": (x[kept], y[kept]), part: (x[taken], y[taken])})
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
        name: ``digits`` (scikit-learn's 1,797 images of 8 x 8, embedded), ``mnist`` or ``fashion-mnist``
            (60,000 + 10,000 images of 28 x 28; the published test set stays the test set).
        data_dir: Folder with the four IDX files, gzip'd or plain: the files themselves, in a sub-folder named
            after the data set, or where torchvision keeps them. Without it the environment variable
            ``EVOPRUNE_DATA`` is used, and without that they are downloaded once and cached.
        seed: Seeds the split.
        validation_fraction: See :meth:`Data.split`.
        test_fraction: See :meth:`Data.split`; only for data without a published test set.
        normalize: Subtract the mean of the training pixels and divide by their standard deviation. Otherwise
            pixels lie in [0, 1].

    Returns:
        Float32 images [n, 1, height, width] and int64 labels [n].

    Warns:
        UserWarning: The content is unknown: not that which is published under the name.

    Raises:
        InputError: An unknown name, or a file that is missing, truncated or foreign, or another published data set's.
    """
    raw, white = load_raw(name, data_dir)
    return prepare(raw, white, seed, validation_fraction, test_fraction, normalize)


def load_raw(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[Data, int]:
    """Returns a data set by name as it is stored, before any split or normalisation, and its value of white.

    Args:
        name: See :func:`load`.
        data_dir: See :func:`load`.

    Raises:
        InputError: An unknown name, or a file that is missing, truncated or foreign.
    """
    return look_up("data set", name, LOADERS)(name, data_dir)


def prepare(
    raw: Data, white: int, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.2, normalize: bool = True
) -> Data:
    """Splits images of bytes and makes them floats; see :func:`load`."""
    data = raw.split(seed, validation_fraction, test_fraction)
    mean, std = _pixel_statistics(data.train[0]) if normalize else (0.0, float(white))
    # part by part: a data set is never in memory twice as floats
    return data.with_parts({part: (x.float().sub_(mean).div_(std), y) for part, (x, y) in data.parts().items()})


def content_digest(data: Data) -> str:
    """Returns the SHA-256 of all parts that are present, as they are stored, and of the names of classes, in hex.

    Args:
        data: The data, before they are cast, split or normalised.
    """
    digest = hashlib.sha256(repr(data.classes).encode())
    for part, pair in data.parts().items():
        for kind, tensor in zip(("inputs", "targets"), pair, strict=True):
            digest.update(f"{part} {kind} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def find_idx_folder(name: str, data_dir: Path) -> Path | None:
    """Returns the folder below ``data_dir`` that holds a data set's IDX files, or None."""
    for folder in (data_dir / name, data_dir / _PUBLISHED[name].torchvision_folder, data_dir):
        if any(_is_file(folder / f"{stem}{end}") for stem in _IDX_FILES.values() for end in ("", ".gz")):
            return folder
    return None


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path's raises for a folder that may not be read


def read_idx(path: Path, dimensions: int) -> np.ndarray[Any, Any]:
    """Reads an IDX file of unsigned bytes, gzip'd (``.gz``) or plain.

    The memory used is that of the content, which is at most 100 times the file's size and 64 MiB.

    Args:
        path: The file.
        dimensions: 3 for images [n, height, width], 1 for labels [n].

    Raises:
        InputError: The file is missing, truncated, or no IDX file of that kind.
    """
    try:
        mode = path.stat()
        if not stat.S_ISREG(mode.st_mode):  # to open a pipe would wait for a writer
            raise InputError(f"cannot read {path}: not a regular file; {_CURE}.")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return _parse_idx(stream, path, dimensions, mode.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}; {_CURE}.") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path} is truncated or damaged ({error}); expected a whole gzip file; {_CURE}.") from error


def _parse_idx(stream: Any, path: Path, dimensions: int, file_size: int) -> np.ndarray[Any, Any]:
    length = 4 + 4 * dimensions
    header, magic = bytes(_read(stream, length)), bytes([0, 0, 8, dimensions])
    if len(header) < length or header[:4] != magic:
        raise InputError(
            f"{path} is not an IDX file of {dimensions}-dimensional unsigned bytes: it starts with "
            f"{header[:4].hex() or 'nothing'}, expected {magic.hex()}; {_CURE}."
        )
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    size = math.prod(shape)
    if size == 0:
        raise InputError(f"{path} states the shape {shape}, which is empty; expected positive sizes; {_CURE}.")
    packed = path.suffix == ".gz"
    plausible = size <= max(_MOST_BYTES, _MOST_RATIO * file_size) if packed else length + size == file_size
    content = _read(stream, size + 1) if plausible else bytearray()
    if len(content) != size:
        found = f"{length + len(content):,} bytes{' or more' if len(content) > size else ''}"
        raise InputError(
            f"{path} is truncated or damaged: {found if plausible else f'{file_size:,} bytes'}, expected {length + size:,} for "
            f"the shape {shape} that it states; {_CURE}."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read(stream: Any, size: int) -> bytearray:
    """Reads at most ``size`` bytes, in pieces: a single read would take the memory whether they are there or not."""
    content = bytearray()
    while piece := stream.read(min(size - len(content), 1 << 20)):
        content += piece
    return content


def _load_digits(name: str, data_dir: object) -> tuple[Data, int]:
    from sklearn.datasets import load_digits  # heavy, and needed by this data set alone

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    data = Data(train=(images, torch.from_numpy(digits.target)), name=name)
    return (data if content_digest(data) == _DIGITS else _unpublished(data, "scikit-learn's digits", [])), 16


def _load_idx(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Data, int]:
    folder = _idx_folder(name, data_dir)
    arrays, paths = {}, {}
    for part, stem in _IDX_FILES.items():
        found = [path for path in (folder / stem, folder / f"{stem}.gz") if _is_file(path)]
        if not found:
            raise InputError(f"{folder} has no {stem} or {stem}.gz; put it beside the other files of {name}.")
        paths[part] = found[0]
        arrays[part] = read_idx(found[0], 3 if part.endswith("images") else 1)
    unknown = _require_content(name, arrays, paths)
    pairs = {}
    for part in ("train", "test"):
        images, labels = arrays[f"{part} images"], arrays[f"{part} labels"]
        if len(images) != len(labels):
            raise InputError(f"{folder}: {len(images)} {part} images but {len(labels)} labels; fetch both anew.")
        if images.shape[1:] != arrays["train images"].shape[1:]:
            raise InputError(f"{folder}: test images of another size than the training images; fetch both anew.")
        pairs[part] = (torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))
    data = Data(train=pairs["train"], test=pairs["test"], name=name)
    return (_unpublished(data, str(folder), unknown) if unknown else data), 255


def _require_content(name: str, arrays: Mapping[str, np.ndarray[Any, Any]], paths: Mapping[str, Path]) -> list[str]:
    """Checks that files hold what they are called; returns the parts whose content is unknown.

    Raises:
        InputError: A file holds another published data set, or another of the four files.
    """
    known = {digest: (other, part) for other, entry in _PUBLISHED.items() for part, digest in entry.sha256.items()}
    unknown = []
    for part, array in arrays.items():
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        content = hashlib.sha256(header)
        content.update(array.data)
        holds = known.get(content.hexdigest()) or _known_archive(paths[part])
        if holds is None:
            unknown.append(part)
        elif holds != (name, part):
            other = f"ask for {holds[0]}, or " if holds[0] in _PUBLISHED and holds[0] != name else ""
            raise InputError(
                f"{paths[part]} holds the {holds[1]} of {holds[0]}, expected the {part} of {name}: the data sets' files have "
                f"the same names; {other}name the folder of {name} with --data-dir or EVOPRUNE_DATA."
            )
    if np.array_equal(arrays["train images"], arrays["test images"]):
        raise InputError(f"{paths['test images']} has the same images as {paths['train images'].name}; fetch both anew.")
    return unknown


def _known_archive(path: Path) -> tuple[str, str] | None:
    if path.suffix != ".gz":
        return None
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return next((("kmnist", part) for part, md5 in _KMNIST_MD5.items() if md5 == digest), None)


def _unpublished(data: Data, where: str, parts: Sequence[str]) -> Data:
    digest = content_digest(data)
    of = f" ({', '.join(parts)})" if parts else ""
    warnings.warn(
        f"{where} is not the published data set {data.name}: its content{of} is unknown. It is taken as it is, and recorded by "
        f"its digest {digest}.",
        stacklevel=2,
    )
    return replace(data, digest=digest)


def _idx_folder(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    given = data_dir or os.environ.get("EVOPRUNE_DATA")
    if not given:
        return _download(name)
    try:
        path = Path(given).expanduser()
    except (TypeError, RuntimeError) as error:
        raise InputError(f"data_dir is {given!r}: {error}; expected a folder.") from error
    folder = find_idx_folder(name, path)
    if folder is None:
        exists = os.path.isdir(path)  # noqa: PTH112 - Path's raises for a name that no file can have
        raise InputError(
            f"no IDX files of {name} in {path} ({'which exists' if exists else 'no such folder'}); expected "
            f"{', '.join(_IDX_FILES.values())} (each plain or .gz) there, in {name}/ or in "
            f"{_PUBLISHED[name].torchvision_folder}/. Leave out --data-dir and EVOPRUNE_DATA to download them."
        )
    return folder


def _download(name: str) -> Path:
    import pooch  # needed only where nothing is at hand

    published = _PUBLISHED[name]
    registry = {f"{stem}.gz": f"md5:{published.md5[part]}" for part, stem in _IDX_FILES.items()}
    cache = pooch.create(pooch.os_cache("evoprune") / name, published.url, registry=registry, retry_if_failed=1)
    for file in registry:
        try:
            cache.fetch(file, progressbar=True)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            raise InputError(
                f"cannot download {published.url}{file}: {error}. Fetch the four files by other means and name "
                f"their folder with --data-dir or EVOPRUNE_DATA."
            ) from error
    return Path(cache.abspath)


LOADERS = {"digits": _load_digits, "mnist": _load_idx, "fashion-mnist": _load_idx}


def count_classes(data: Data) -> int:
    """Returns how many classes the labels of all parts tell of: the names, or one more than the largest label.

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
        InputError: Some parts have integers and others have floats, whose scale may be another.
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
    """Draws ``size`` rows, of each class its share (rounded by largest remainder), and returns the others and these, ascending.

    scikit-learn's ``train_test_split`` does the same, but its import takes 1.3 s and 110 MB in every worker.
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
