"""The cache of decoded images, and the place of a folder of images."""

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.images import encoded, files, pixels, read, write

from evoprune.errors import InputError
from evoprune.problem import cache as cache_module
from evoprune.problem.cache import Writer, cached
from evoprune.problem.load import load
from evoprune.problem.options import ProblemOptions
from evoprune.problem.readers import image_folder
from evoprune.problem.readers.place import located


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded, in order."""
    names, real = [], image_folder._pixels
    monkeypatch.setattr(image_folder, "_pixels", lambda images, name, *rest: names.append(name) or real(images, name, *rest))
    return names


def test_a_second_start_decodes_nothing(tmp_path, decoded):
    place = write(tmp_path / "pets", files())
    first, _ = read(place)
    count = len(decoded)
    second, _ = read(place)
    assert len(decoded) == count > 0
    assert second.digest == first.digest
    assert all(torch.equal(x, y) for x, y in zip(first.train, second.train, strict=True))


def test_a_changed_file_is_decoded_again(tmp_path, decoded):
    place = write(tmp_path / "pets", files())
    read(place)
    count, path = len(decoded), place / "dog" / "1.png"
    before = path.stat()
    path.write_bytes(encoded(pixels(77)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time of change, but another content
    data, _ = read(place)
    assert len(decoded) > count
    assert np.array_equal(data.train[0][7].numpy(), pixels(77).transpose(2, 0, 1))


def test_a_zip_may_move_and_is_known_by_its_content(tmp_path, decoded):
    place = write(tmp_path / "pets.zip", files())
    read(place)
    count = len(decoded)
    assert read(place.rename(tmp_path / "moved.zip"))[0].name == "image-folder:moved.zip"
    assert len(decoded) == count


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["cut", "flip", "gone", "empty"]
)
@pytest.mark.parametrize("name", ["train-images.npy", "train-labels.npy", "index.json"])
def test_a_damaged_cache_is_made_again(tmp_path, decoded, damage, name):
    place = write(tmp_path / "pets", files())
    first, _ = read(place)
    wanted = [tensor.clone() for tensor in first.train]
    del first
    count = len(decoded)
    (folder,) = (tmp_path / "cache" / "decoded").glob("images-*")
    if name == "index.json" and damage is flip:
        damage = cut  # a flipped blank would not matter
    damage(folder / name)
    with pytest.warns(UserWarning, match="is damaged, or of an earlier version of evoprune.*decoded again"):
        again, _ = read(place)
    assert len(decoded) == 2 * count
    assert all(torch.equal(x, y) for x, y in zip(wanted, again.train, strict=True))


def test_writing_to_the_tensors_leaves_the_cache(tmp_path):
    place = write(tmp_path / "pets", files())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that is read-only
        data, _ = read(place)
    before = data.train[0].clone()
    data.train[0].zero_()
    assert torch.equal(read(place)[0].train[0], before)


def test_a_decoder_that_fails_leaves_nothing(tmp_path):
    def decode(writer):
        writer.save("x", np.arange(3))
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        cached("test", 1, decode)
    assert [path.name for path in (tmp_path / "cache" / "decoded").iterdir() if path.is_dir()] == []


def test_a_disk_without_room_is_refused_before_it_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"room for 100 bytes, and the data take 8,000.*EVOPRUNE_CACHE"):
        cached("test", 1, lambda writer: writer.save("x", np.arange(1000)) or {})


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot keep decoded data in .*file/decoded.*EVOPRUNE_CACHE"):
        cached("test", 1, lambda writer: {})


def test_arrays_are_written_in_pieces(tmp_path):
    writer = Writer(tmp_path)
    with writer.array("x", np.int64, (2, 3)) as add:
        add(np.arange(3))
        add(np.arange(3, 6))
    assert np.array_equal(writer.load()["x"], np.arange(6).reshape(2, 3))


# Names and places


def test_the_name_and_the_place_are_separated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    assert located("image-folder:/a/b/", None) == ("image-folder:b", Path("/a"))
    assert located("image-folder:b", None) == ("image-folder:b", here)
    assert located("image-folder:c/b", "/a") == ("image-folder:b", Path("/a/c"))
    assert located("image-folder:/d/b", "/a") == ("image-folder:b", Path("/d"))
    assert located("image-folder", "/a/b") == ("image-folder:b", Path("/a"))
    assert located("mnist", "/a") == ("mnist", "/a")
    for name, place in [("image-folder:c/b", "/a"), ("image-folder:b", None)]:
        assert located(*located(name, place)) == located(name, place)
    options = ProblemOptions(data="image-folder:/a/b")
    assert (options.data, options.data_dir) == ("image-folder:b", Path("/a"))


def test_the_environment_names_the_place_on_each_host(tmp_path, monkeypatch):
    write(tmp_path / "data" / "pets", files(count=10))
    monkeypatch.setenv("EVOPRUNE_DATA", str(tmp_path / "data"))
    assert located("image-folder:pets", None) == ("image-folder:pets", None)
    assert len(load("image-folder:pets").train[0]) == 14
    monkeypatch.chdir(tmp_path)
    assert located("image-folder:other", None) == ("image-folder:other", Path.cwd())
    assert located("image-folder", None) == ("image-folder:data", tmp_path)
