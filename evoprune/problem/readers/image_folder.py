"""Folders and zips of images, one folder a class: read by Pillow, and decoded once into the cache."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evoprune.errors import InputError
from evoprune.problem.cache import Kept, Writer, cached
from evoprune.problem.data import Data, content_digest
from evoprune.problem.readers.listing import MOST_BYTES, Images, Layout, arrange, open_images
from evoprune.system import terminal

# Pillow reads further formats by programs outside of it, or keeps them for compatibility.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY, _WIDE = ("1", "L", "LA", "La"), ("I", "F")
_MOST_PIXELS = 1 << 24


class _ColourError(Exception):
    """A coloured image among grey ones."""


def load_image_folder(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Data, int]:
    """Loads a folder or a zip of images, and returns them with the value of white.

    Images lie in a folder for each class, and these optionally in ``train``, ``test`` and ``val`` or ``validation``. Classes
    and files are in sorted order. All images have one size. They are grey if all of them are, and RGB otherwise: palettes are
    resolved, and transparency is dropped.

    Args:
        name: ``image-folder:NAME``, see :func:`evoprune.problem.readers.place.located`.
        data_dir: The folder that holds NAME; None: the one that the environment variable ``EVOPRUNE_DATA`` names.

    Returns:
        The data, uint8 [n, channels, height, width] and int64 [n], as memory maps, with their digest; and 255.

    Raises:
        InputError: There are no such files, or an image is broken, has another size, or more than 8 bits a channel.
    """
    path = Path(data_dir or os.environ.get("EVOPRUNE_DATA") or ".") / name.partition(":")[2]
    with open_images(path) as images:
        source = [str(path.resolve()) if path.is_dir() else "zip", sorted(images.files.items())]
        kept = cached("images", source, lambda writer: _decode(images, writer))
    return _as_data(kept, name), 255


def _as_data(kept: Kept, name: str) -> Data:
    pairs: dict[str, Any] = {
        part: (torch.from_numpy(kept.arrays[f"{part}-images"]), torch.from_numpy(kept.arrays[f"{part}-labels"]))
        for part in kept.facts["parts"]
    }
    return Data(**pairs, name=name, classes=tuple(kept.facts["classes"]), digest=kept.facts.get("digest"))


def _decode(images: Images, writer: Writer) -> dict[str, Any]:
    layout = arrange(images)
    try:
        _write(images, layout, writer, grey=True)
    except _ColourError:
        _write(images, layout, writer, grey=False)
    _require_other_test_images(images, writer.load())
    facts = {"classes": layout.classes, "parts": list(layout.parts)}
    return {**facts, "digest": content_digest(_as_data(Kept(writer.load(), facts), ""))}


def _require_other_test_images(images: Images, arrays: Mapping[str, NDArray[Any]]) -> None:
    train, test = arrays["train-images"], arrays.get("test-images")
    if test is not None and np.array_equal(train, test):
        raise InputError(f"{images.where} has the same images in train/ and test/; expected others to test on.")


def _write(images: Images, layout: Layout, writer: Writer, grey: bool) -> None:
    total = sum(map(len, layout.parts.values()))
    first = layout.parts["train"][0][0]
    shape = _pixels(images, first, grey, None).shape
    with terminal.bar(total, f"decoding {images.where.name}", unit=" images", leave=False) as bar:
        for part, entries in layout.parts.items():
            with writer.array(f"{part}-images", np.uint8, (len(entries), *shape)) as add:
                for name, _ in entries:
                    add(_pixels(images, name, grey, (first, shape)))
                    bar.update()
            writer.save(f"{part}-labels", np.array([label for _, label in entries], np.int64))


def _pixels(images: Images, name: str, grey: bool, like: tuple[str, tuple[int, ...]] | None) -> NDArray[np.uint8]:
    """Returns the pixels [channels, height, width] of an image that has the same size as the first."""
    try:
        content = images.read(name)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _require_size(images, name, image.size, like)
            if image.mode.startswith(_WIDE) or any("16" in str(tile[-1]) for tile in image.tile):  # Pillow would cut them
                raise ValueError(f"its pixels are of Pillow's mode {image.mode}; expected 8 bits a channel")
            if grey and image.mode not in _GREY:
                raise _ColourError
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (InputError, _ColourError):
        raise
    except Exception as error:  # Pillow and zipfile raise nearly everything for a damaged file
        raise InputError(f"cannot read the image {name} of {images.where}: {error}; replace or remove it.") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _require_size(images: Images, name: str, size: tuple[int, int], like: tuple[str, tuple[int, ...]] | None) -> None:
    width, height = size
    if width * height > _MOST_PIXELS:
        raise InputError(
            f"{images.where}: {name} has {width} x {height} pixels; expected at most {_MOST_PIXELS:,}: resize the images."
        )
    if like is not None and like[1][1:] != (height, width):
        first, (_, *expected) = like
        raise InputError(
            f"{images.where}: {name} has {width} x {height} pixels (width first), {first} has {expected[1]} x {expected[0]}; "
            f"expected one size: resize the images."
        )
