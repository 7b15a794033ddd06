"""Small folders of images."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from evoprune.errors import InputError
from evoprune.problem.load import load_raw


def pixels(seed, size=(4, 5), channels=3):
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(array, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def files(parts=("",), count=6, **options):
    """Contents of PNG files by name: image i of each class of each part is drawn with a seed that tells them apart."""
    return {
        f"{part}{label}/{i}.png": encoded(pixels([p, c, i], **options))
        for p, part in enumerate(parts)
        for c, label in enumerate(("cat", "dog"))
        for i in range(count)
    }


def write(place, contents):
    """Writes a folder of files, or a zip where the name ends so."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return place
    for name, content in contents.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def read(place):
    return load_raw(f"image-folder:{place}")


def refused(place, match):
    with pytest.raises(InputError, match=match) as error:
        read(place)
    assert place.name in str(error.value)


def png_of_16_bits(values):
    """A PNG of 16-bit RGB, which Pillow cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
