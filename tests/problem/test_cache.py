"""The cache of decoded arrays where its files are damaged: the arrays are decoded again, with a word."""

import json
import os
import shutil

import numpy as np
import pytest

from evoprune.errors import InputError
from evoprune.problem import cache as cache_module
from evoprune.problem.cache import cached

WORD = "is damaged, or of an earlier version of evoprune: its files differ .* the data are decoded again"
VALUES = np.arange(5)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The folder of an intact data set in the cache."""
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path))
    read()
    (found,) = (tmp_path / "decoded").glob("test-*")
    return found


def decode(writer):
    writer.save("x", VALUES)
    return {"unknown": ["a"]}


def read(decode=decode):
    return cached("test", 1, decode)


def refuse(writer):
    raise AssertionError("intact arrays are decoded again")


def test_intact_arrays_are_opened_without_a_word():
    assert np.array_equal(read(refuse).arrays["x"], VALUES)


def changed(change):
    """Changes the values of the index."""

    def damage(folder):
        index = json.loads((folder / "index.json").read_text())
        change(index)
        (folder / "index.json").write_text(json.dumps(index))

    return damage


def text(content):
    return lambda folder: (folder / "index.json").write_text(content)


def saved(array):
    return lambda folder: np.save(folder / "x.npy", array, allow_pickle=True)


def replaced(name, make):
    """Puts another thing in the place of a file."""

    def damage(folder):
        (folder / name).unlink()
        make(folder / name)

    return damage


def as_file(folder):
    shutil.rmtree(folder)
    folder.write_bytes(b"")


def as_link(folder):
    moved = folder.rename(folder.with_name("moved"))
    (moved / "x.npy").unlink()
    folder.symlink_to(moved)


DAMAGES = {
    "no array": changed(lambda index: index["arrays"].clear()),
    "no arrays": changed(lambda index: index.pop("arrays")),
    "no fact": changed(lambda index: index["facts"].clear()),
    "no facts": changed(lambda index: index.pop("facts")),
    "no sum": changed(lambda index: index.pop("sum")),
    "a fact of another type": changed(lambda index: index["facts"].update(unknown=None)),
    "facts of another type": changed(lambda index: index.update(facts=[["unknown", 1]])),
    "an array of another type": changed(lambda index: index["arrays"].update(x="ab")),
    "another length": changed(lambda index: index["arrays"]["x"].__setitem__(0, 7)),
    "an array too many": changed(lambda index: index["arrays"].update(y=index["arrays"]["x"])),
    "a list": text("[1]"),
    "a word": text('"sum"'),
    "cut": text('{"arrays": {'),
    "no text": lambda folder: (folder / "index.json").write_bytes(b"\xff\0"),
    "nested": text("[" * 100_000),
    "a folder for the index": replaced("index.json", lambda path: path.mkdir()),
    "a pipe for the index": replaced("index.json", os.mkfifo),
    "a folder for an array": replaced("x.npy", lambda path: path.mkdir()),
    "a pipe for an array": replaced("x.npy", os.mkfifo),
    "another shape": saved(np.arange(6)),
    "another type": saved(np.arange(5.0)),
    "objects": saved(np.array([1, "a"], object)),
    "a file for the folder": as_file,
    "a link for the folder": as_link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_arrays_are_decoded_again_with_a_word(folder, damage):
    damage(folder)
    with pytest.warns(UserWarning, match=WORD):
        kept = read()
    assert np.array_equal(kept.arrays["x"], VALUES)
    assert kept.facts == {"unknown": ["a"]}
    assert np.array_equal(read(refuse).arrays["x"], VALUES)


def test_files_that_may_not_be_read_are_written_anew(folder, monkeypatch):
    real_open, real_remove, denied = cache_module.open_regular, cache_module._remove, {folder / "x.npy"}

    def open_unless_denied(path):
        if path in denied:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path)

    monkeypatch.setattr(cache_module, "open_regular", open_unless_denied)
    monkeypatch.setattr(cache_module, "_remove", lambda path: (denied.clear(), real_remove(path)))
    with pytest.warns(UserWarning, match=WORD):
        kept = read()
    assert np.array_equal(kept.arrays["x"], VALUES)


def test_a_folder_that_may_not_be_written_is_named_with_the_cure(folder, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    (folder / "x.npy").unlink()
    monkeypatch.setattr(cache_module, "_remove", denied)
    with (
        pytest.warns(UserWarning, match=WORD),
        pytest.raises(InputError, match=r"cannot keep decoded data in .*Permission denied.*EVOPRUNE_CACHE"),
    ):
        read()
    assert [path.name for path in folder.parent.glob(".*.tmp")] == []
