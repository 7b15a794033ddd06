"""EMNIST: handwritten letters and digits, six selections of them, in IDX files or in the published zip of these.

Source: G. Cohen, S. Afshar, J. Tapson, A. van Schaik, "EMNIST: an extension of MNIST to handwritten letters",
arXiv:1702.05373.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import string
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evoprune.errors import InputError
from evoprune.problem.cache import Writer, cached
from evoprune.problem.data import Data
from evoprune.problem.download import download
from evoprune.problem.idx import given_folder, parse_idx, read_idx, unpublished
from evoprune.problem.readers.archives import CURE, fingerprint

_URL, _ARCHIVE, _MD5 = "https://biometrics.nist.gov/cs_links/EMNIST/", "gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e"
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"  # the other small letters look like their capitals

# Names of the classes, by data set; files are called after the part behind the dash.
_CLASSES = {
    "emnist-balanced": _MERGED,
    "emnist-bymerge": _MERGED,
    "emnist-byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "emnist-letters": string.ascii_lowercase,
    "emnist-digits": string.digits,
    "emnist-mnist": string.digits,
}
EMNIST = ("emnist", *(name for name in _CLASSES if name != "emnist-balanced"))

_PIECE = 10_000


def load_emnist(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Data, int]:
    """Loads a selection of EMNIST, and returns it with the value of white.

    The files have images with rows and columns exchanged, and torchvision leaves them so. Here they are upright, as those of
    MNIST are. The labels of ``letters`` start at 1 in the files, and at 0 here.

    Args:
        name: One of :data:`EMNIST`; ``emnist`` alone is the balanced one.
        data_dir: The folder with the IDX files or with the published ``gzip.zip``, or one that holds it as ``emnist``, ``gzip``
            or ``EMNIST/raw``, or as ``name``. None: the one that ``EVOPRUNE_DATA`` names, else the zip is downloaded (536 MB).

    Returns:
        The data, uint8 [n, 1, 28, 28] and int64 [n], as memory maps; and 255.

    Warns:
        UserWarning: The files do not come from the published zip.

    Raises:
        InputError: A file is missing, truncated, of another kind, or has labels that the selection has not.
    """
    selection = "emnist-balanced" if name == "emnist" else name
    stems = {
        f"{part}-{kind}": f"{selection}-{part}-{kind}-idx{dimensions}-ubyte"
        for part in ("train", "test")
        for kind, dimensions in (("images", 3), ("labels", 1))
    }
    place = _find(name, stems, data_dir)
    files = {key: _file(place, stem) for key, stem in stems.items()} if place.is_dir() else dict.fromkeys(stems, place)
    source = [fingerprint(path) for path in dict.fromkeys(files.values())]
    kept = cached(selection, source, lambda writer: _decode(selection, stems, files, writer))
    pairs: dict[str, Any] = {
        part: (torch.from_numpy(kept.arrays[f"{part}-images"]), torch.from_numpy(kept.arrays[f"{part}-labels"]))
        for part in ("train", "test")
    }
    data = Data(**pairs, name=name, classes=tuple(_CLASSES[selection]))
    return (data if kept.facts["published"] else unpublished(data, str(place), [])), 255


def _find(name: str, stems: dict[str, str], data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns the folder of the IDX files, or the zip."""
    top = given_folder(data_dir)
    if top is None:
        return download("emnist", _URL, {_ARCHIVE: _MD5})[0]
    folders = [top / sub for sub in ("emnist", "emnist/gzip", "EMNIST/raw", "gzip", name, ".")]
    for place in (*(folder / _ARCHIVE for folder in folders), top):
        if place.name == _ARCHIVE and os.path.isfile(place):  # noqa: PTH113 - Path's raises for odd names
            return place
    for folder in folders:
        if any(os.path.isfile(folder / f"{stem}{end}") for stem in stems.values() for end in ("", ".gz")):  # noqa: PTH113
            return folder
    raise InputError(
        f"no files of {name} in {top} ({'which exists' if os.path.isdir(top) else 'no such folder'}); "  # noqa: PTH112
        f"expected {_ARCHIVE}, or {', '.join(stems.values())} (each plain or .gz), there, in emnist/, {name}/, gzip/ or "
        f"EMNIST/raw/. Leave out --data-dir and EVOPRUNE_DATA to download them (536 MB)."
    )


def _file(folder: Path, stem: str) -> Path:
    found = [folder / f"{stem}{end}" for end in ("", ".gz") if (folder / f"{stem}{end}").is_file()]
    if not found:
        raise InputError(f"{folder} has no {stem} or {stem}.gz; put it beside the other files.")
    return found[0]


def _decode(selection: str, stems: dict[str, str], files: dict[str, Path], writer: Writer) -> dict[str, Any]:
    classes = len(_CLASSES[selection])
    for part in ("train", "test"):
        images = _read(files[f"{part}-images"], stems[f"{part}-images"], 3)
        labels = _read(files[f"{part}-labels"], stems[f"{part}-labels"], 1).astype(np.int64) - (selection == "emnist-letters")
        where = files[f"{part}-labels"]
        if len(images) != len(labels) or images.shape[1:] != (28, 28):
            raise InputError(
                f"{where}: {images.shape} {part} images but {len(labels)} labels; expected [n, 28, 28] and n: {CURE}."
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"{where}: the {part} labels, counted from 0, are {labels.min()} to {labels.max()}; expected 0 to "
                f"{classes - 1} in {selection}: {CURE}."
            )
        with writer.array(f"{part}-images", np.uint8, (len(images), 1, 28, 28)) as add:
            for start in range(0, len(images), _PIECE):
                add(images[start : start + _PIECE].swapaxes(1, 2))
        writer.save(f"{part}-labels", labels)
    arrays = writer.load()
    if np.array_equal(arrays["train-images"], arrays["test-images"]):
        raise InputError(f"{files['test-images']} has the same images to test as to train; fetch it anew.")
    return {"published": _is_published(files["train-images"])}


def _read(path: Path, stem: str, dimensions: int) -> NDArray[Any]:
    if path.name != _ARCHIVE:
        return read_idx(path, dimensions)
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == f"{stem}.gz"]
            if len(found) != 1:
                raise ValueError(f"it has {len(found)} files called {stem}.gz, expected one")
            with archive.open(found[0]) as packed, gzip.open(packed) as stream:
                return parse_idx(stream, path / f"{stem}.gz", dimensions, found[0].compress_size)
    except InputError:
        raise
    except Exception as error:  # zipfile raises nearly everything for a damaged file
        raise InputError(f"{path} is truncated or damaged ({error}); {CURE}.") from error


def _is_published(path: Path) -> bool:
    if path.name != _ARCHIVE:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == _MD5
