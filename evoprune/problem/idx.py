"""IDX files, as of MNIST, Fashion-MNIST and Kuzushiji-MNIST: finding, checking and downloading them."""

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
from typing import Any

import numpy as np
import torch

from evoprune.errors import InputError
from evoprune.problem.data import Data, content_digest
from evoprune.problem.download import download

_IDX_FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}


_CURE = "fetch it anew, or name another folder with --data-dir or EVOPRUNE_DATA"

# The most bytes that a gzip'd file may hold, or the most as a multiple of its size. MNIST has 47 million, 5 times the file's.
_MOST_BYTES, _MOST_RATIO = 1 << 26, 100


@dataclass(frozen=True)
class _Published:
    """The place and the checksums of a published data set of four IDX files.

    Attributes:
        url: The folder.
        torchvision_folder: The folder in which torchvision keeps them.
        md5: Checksums of the gzip'd files, by their content's name.
        sha256: Checksums of the content itself, by the same names; none where they are not published.
        installed: The folder in which a package of Debian keeps them.
    """

    url: str
    torchvision_folder: str
    md5: dict[str, str]
    sha256: dict[str, str]
    installed: str | None = None


# Kuzushiji-MNIST has the same file names. Checksums are published of its archives, but not of their content.
_KMNIST_MD5 = {
    "train images": "bdb82020997e1d708af4cf47b453dcf7",
    "train labels": "e144d726b3acfaa3e44228e80efcd344",
    "test images": "5c965bf0a639b31b8f53240b1b52f4d7",
    "test labels": "7320c461ea6c1c855c0b718fb2a4b134",
}

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
        installed="/usr/share/datasets/fashion-mnist",
    ),
    "kmnist": _Published("http://codh.rois.ac.jp/kmnist/dataset/kmnist/", "KMNIST/raw", _KMNIST_MD5, {}),
}


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

    It uses as much memory as the content takes: at most 64 MiB, or 100 times the file's size if that is more.

    Args:
        path: The file.
        dimensions: 3 for images [n, height, width], 1 for labels [n].

    Raises:
        InputError: The file is missing, truncated, or no IDX file of that kind.
    """
    try:
        mode = path.stat()
        if not stat.S_ISREG(mode.st_mode):  # opening a pipe would wait for a writer
            raise InputError(f"cannot read {path}: not a regular file; {_CURE}.")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return parse_idx(stream, path, dimensions, mode.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}; {_CURE}.") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path} is truncated or damaged ({error}); expected a whole gzip file; {_CURE}.") from error


def parse_idx(stream: Any, path: Path, dimensions: int, file_size: int) -> np.ndarray[Any, Any]:
    """Reads the content of an IDX file from a stream.

    Args:
        stream: The stream, which unpacks a gzip'd file.
        path: The file's name, for messages; it ends in ``.gz`` if the stream unpacks.
        dimensions: See :func:`read_idx`.
        file_size: Bytes of the file.

    Raises:
        InputError: It is truncated, or no IDX file of that kind; and whatever the stream raises.
    """
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
    """Reads at most ``size`` bytes in pieces: a single read would allocate the memory even if the file is shorter."""
    content = bytearray()
    while piece := stream.read(min(size - len(content), 1 << 20)):
        content += piece
    return content


def load_idx(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Data, int]:
    """Loads a data set of four IDX files, and returns it with the value of white."""
    folder = _idx_folder(name, data_dir)
    arrays, paths = {}, {}
    for part, stem in _IDX_FILES.items():
        # if both are there, the one whose checksum is known
        ends = ("", ".gz") if _PUBLISHED[name].sha256 else (".gz", "")
        found = [folder / f"{stem}{end}" for end in ends if _is_file(folder / f"{stem}{end}")]
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
    return (unpublished(data, str(folder), unknown) if unknown else data), 255


def _require_content(name: str, arrays: Mapping[str, np.ndarray[Any, Any]], paths: Mapping[str, Path]) -> list[str]:
    """Checks that each file holds the data that its name says, and returns the parts whose content is unknown.

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


def unpublished(data: Data, where: str, parts: Sequence[str]) -> Data:
    """Warns that data differ from the published ones, and returns them with their digest."""
    digest = content_digest(data)
    of = f" ({', '.join(parts)})" if parts else ""
    warnings.warn(
        f"{where} is not the published data set {data.name}: its content{of} is unknown. It is taken as it is, and recorded by "
        f"its digest {digest}.",
        stacklevel=2,
    )
    return replace(data, digest=digest)


def given_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Returns the folder that ``data_dir`` or else the environment variable ``EVOPRUNE_DATA`` names, or None.

    Raises:
        InputError: It cannot be the name of a folder.
    """
    given = data_dir or os.environ.get("EVOPRUNE_DATA")
    if not given:
        return None
    try:
        return Path(given).expanduser()
    except (TypeError, RuntimeError) as error:
        raise InputError(f"data_dir is {given!r}: {error}; expected a folder.") from error


def _idx_folder(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    path = given_folder(data_dir)
    if path is None:
        installed = _PUBLISHED[name].installed
        return (find_idx_folder(name, Path(installed)) if installed else None) or _download(name)
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
    published = _PUBLISHED[name]
    files = {f"{stem}.gz": published.md5[part] for part, stem in _IDX_FILES.items()}
    return download(name, published.url, files)[0].parent
