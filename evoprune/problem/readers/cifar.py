"""CIFAR-10 and CIFAR-100: finding, checking and downloading the published archives, binary or pickled.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from evoprune.errors import InputError
from evoprune.problem.cache import Writer, cached
from evoprune.problem.data import Data
from evoprune.problem.download import download
from evoprune.problem.idx import given_folder, unpublished
from evoprune.problem.readers.archives import CURE, fingerprint, read_file, read_members
from evoprune.problem.readers.cifar_classes import CIFAR_10, CIFAR_100
from evoprune.problem.readers.pickled import read_pickle

_URL = "https://www.cs.toronto.edu/~kriz/"
_PIXELS = 3 * 32 * 32

# Images [n, 3072] and labels [n] of a file.
Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class _Format:
    """A published form of a data set.

    Attributes:
        folder: The folder that the archive unpacks to.
        archive: The archive's name.
        md5: The archive's checksum.
        train: Checksums (SHA-1 or MD5) of the files of the training part by name, in order.
        test: Those of the test part.
        read: Returns the batch of a file's content.
    """

    folder: str
    archive: str
    md5: str
    train: dict[str, str]
    test: dict[str, str]
    read: Callable[[bytes], Batch]

    @property
    def files(self) -> dict[str, str]:
        """Checksums of all files by name."""
        return self.train | self.test


def _read_binary(content: bytes, labels: int) -> Batch:
    """Reads records of one or two labels, of which the last one is the finest, and pixels."""
    size = labels + _PIXELS
    if not content or len(content) % size:
        raise ValueError(f"it has {len(content):,} bytes; expected a multiple of {size:,} above 0")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, labels:], records[:, labels - 1].astype(np.int64)


def _read_pickled(content: bytes, key: str) -> Batch:
    values = read_pickle(content)
    if not isinstance(values, dict):
        raise ValueError(f"it has {type(values).__name__}; expected a dictionary")
    images, labels = (values.get(name.encode(), values.get(name)) for name in ("data", key))
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _PIXELS or not len(images):
        raise ValueError(f"its data are not an array of bytes [n, {_PIXELS:,}]")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise ValueError(f"its {key} are not a list of {len(images):,} integers")
    return images, np.array([min(max(label, -1), 1 << 20) for label in labels], np.int64)


# The checksums of binary files are those in MXNet, and those of pickles are those in torchvision.
_FORMATS = {
    "cifar10": (
        _Format(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            {
                "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
                "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
                "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
                "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
                "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
            },
            {"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
            lambda content: _read_binary(content, labels=1),
        ),
        _Format(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            {"test_batch": "40351d587109b95175f43aff81a1287e"},
            lambda content: _read_pickled(content, "labels"),
        ),
    ),
    "cifar100": (
        _Format(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            {"train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"},
            {"test.bin": "8fb6623e830365ff53cf14adec797474f5478006"},
            lambda content: _read_binary(content, labels=2),
        ),
        _Format(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            {"train": "16019d7e3df5f24257cddd939b257f8d"},
            {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            lambda content: _read_pickled(content, "fine_labels"),
        ),
    ),
}
_CLASSES = {"cifar10": CIFAR_10, "cifar100": CIFAR_100}


def load_cifar(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Data, int]:
    """Loads CIFAR-10, or CIFAR-100 with its fine labels, and returns it with the value of white.

    Args:
        name: ``cifar10`` or ``cifar100``.
        data_dir: The folder with the files or an archive, or one that holds it, or an archive; binary or pickled. None: the
            one that ``EVOPRUNE_DATA`` names, else the binary archive is downloaded.

    Returns:
        The data, uint8 [n, 3, 32, 32] and int64 [n], as memory maps; and 255.

    Warns:
        UserWarning: The content differs from the published one.

    Raises:
        InputError: A file is missing, truncated or damaged, states other labels, or is another published file.
    """
    form, place = _find(name, data_dir)
    paths = [place / file for file in form.files] if place.is_dir() else [place]
    source = [fingerprint(path) for path in paths]
    kept = cached(name, source, lambda writer: _decode(name, form, place, writer))
    pairs: dict[str, Any] = {
        part: (torch.from_numpy(kept.arrays[f"{part}-images"]), torch.from_numpy(kept.arrays[f"{part}-labels"]))
        for part in ("train", "test")
    }
    data = Data(**pairs, name=name, classes=_CLASSES[name])
    unknown = kept.facts["unknown"]
    return (unpublished(data, str(place), unknown) if unknown else data), 255


def _find(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[_Format, Path]:
    """Returns the form, and the folder or archive in which it is."""
    forms = _FORMATS[name]
    top = given_folder(data_dir)
    if top is None:
        binary = forms[0]
        return binary, download(name, _URL, {binary.archive: binary.md5})[0]
    for place in (top / name, top):
        for form in forms:
            for folder in (place / form.folder, place):
                if any(os.path.isfile(folder / file) for file in form.files):  # noqa: PTH113 - Path's raises for odd names
                    return form, folder
        for form in forms:
            for archive in (place / form.archive, place):
                if archive.name == form.archive and os.path.isfile(archive):  # noqa: PTH113
                    return form, archive
    expected = " or ".join(f"{form.folder}/ or {form.archive}" for form in forms)
    raise InputError(
        f"no files of {name} in {top} ({'which exists' if os.path.isdir(top) else 'no such folder'}); "  # noqa: PTH112
        f"expected {expected} there or in {name}/. Leave out --data-dir and EVOPRUNE_DATA to download it."
    )


def _decode(name: str, form: _Format, place: Path, writer: Writer) -> dict[str, Any]:
    if place.is_dir():
        contents = {file: read_file(place / file) for file in form.files}
    else:
        contents = read_members(place, tuple(form.files))
    unknown = _require_content(name, contents, place)
    for part, files in (("train", form.train), ("test", form.test)):
        batches = [_batch(name, form, place / file, contents.pop(file)) for file in files]
        with writer.array(f"{part}-images", np.uint8, (sum(len(x) for x, _ in batches), 3, 32, 32)) as add:
            for images, _ in batches:
                add(images)
        writer.save(f"{part}-labels", np.concatenate([labels for _, labels in batches]))
    arrays = writer.load()
    if np.array_equal(arrays["train-images"], arrays["test-images"]):
        raise InputError(f"{place} has the same images to test as to train; fetch it anew.")
    return {"unknown": unknown}


def _batch(name: str, form: _Format, path: Path, content: bytes) -> Batch:
    try:
        images, labels = form.read(content)
    except ValueError as error:
        raise InputError(f"{path} is no file of {name}, is truncated or damaged: {error}; {CURE}.") from error
    classes = len(_CLASSES[name])
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise InputError(f"{path} has the label {labels[wrong[0]]} at image {wrong[0]}; expected 0 to {classes - 1}; {CURE}.")
    return images, labels


def _require_content(name: str, contents: Mapping[str, bytes], place: Path) -> list[str]:
    """Checks that no file is another published one, and returns the files whose content is unknown."""
    known = {digest: (data, file) for data, forms in _FORMATS.items() for form in forms for file, digest in form.files.items()}
    unknown = []
    for file, content in contents.items():
        digests = [hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() for algorithm in ("sha1", "md5")]
        holds = next((known[digest] for digest in digests if digest in known), None)
        if holds is None:
            unknown.append(file)
        elif holds != (name, file):
            raise InputError(f"{place / file} holds {holds[1]} of {holds[0]}; expected {file} of {name}: {CURE}.")
    return unknown
