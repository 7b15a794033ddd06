"""EMNIST's selections, in IDX files and in the published zip."""

import gzip
import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from support.datasets import EMNIST_CLASSES, emnist_files, write_files

from evoprune.errors import InputError
from evoprune.problem.data import content_digest
from evoprune.problem.load import load_raw
from evoprune.problem.readers import emnist
from evoprune.problem.readers.emnist import EMNIST

pytestmark = pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning")


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "cache"))


def selection_of(name):
    return name.partition("-")[2] or "balanced"


def write(place, name, form="plain", **changes):
    """Writes the four files: plain, gzip'd, or as the zip has them."""
    selection = selection_of(name)
    files = {
        file: changes.get(file.split("-", 2)[2].replace("-", "_")[:12], content)
        for file, content in emnist_files(selection).items()
    }
    if form == "plain":
        return write_files(place, files)
    packed = {f"{file}.gz": gzip.compress(content, 1) for file, content in files.items()}
    if form == "gzip":
        return write_files(place, packed)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for file, content in packed.items():
            archive.writestr(f"gzip/{file}", content)
    return write_files(place, {"gzip.zip": stream.getvalue()})


@pytest.mark.parametrize("form", ["plain", "gzip", "zip"])
@pytest.mark.parametrize("name", EMNIST)
def test_images_are_upright_and_labels_start_at_0(tmp_path, name, form):
    selection = selection_of(name)
    data, white = load_raw(name, write(tmp_path, name, form))
    assert white == 255
    assert data.name == name
    assert len(data.classes) == EMNIST_CLASSES[selection]
    files = emnist_files(selection)
    for part in ("train", "test"):
        x, y = data.parts()[part]
        stored = np.frombuffer(files[f"emnist-{selection}-{part}-images-idx3-ubyte"][16:], np.uint8).reshape(-1, 28, 28)
        assert np.array_equal(x.numpy()[:, 0], stored.transpose(0, 2, 1))
        assert y.dtype == torch.int64
        assert y.tolist() == [i % EMNIST_CLASSES[selection] for i in range(len(stored))]
    assert data.digest == content_digest(data)


def test_the_classes_are_those_of_the_mapping_in_the_published_zip(tmp_path):
    assert "".join(load_raw("emnist", write(tmp_path / "a", "emnist"))[0].classes) == (
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
    )
    letters = load_raw("emnist-letters", write(tmp_path / "b", "emnist-letters"))[0]
    assert "".join(letters.classes) == "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("sub", [".", "emnist", "emnist/gzip", "EMNIST/raw", "gzip"])
@pytest.mark.parametrize("form", ["plain", "zip"])
def test_they_are_found_where_they_lie(tmp_path, monkeypatch, sub, form):
    write(tmp_path / sub, "emnist-digits", form)
    monkeypatch.setenv("EVOPRUNE_DATA", str(tmp_path))
    assert len(load_raw("emnist-digits")[0].test[0]) == 20


@pytest.mark.parametrize("name", EMNIST)
@pytest.mark.parametrize("form", ["plain", "zip"])
def test_they_may_lie_in_a_folder_called_after_the_selection(tmp_path, name, form):
    write(tmp_path / name, name, form)
    assert len(load_raw(name, tmp_path)[0].test[0]) == 20


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("emnist-balanced", "emnist"),
        ("EMNIST_Balanced", "emnist"),
        ("balanced", "emnist"),
        ("EMNIST", "emnist"),
        ("letters", "emnist-letters"),
        ("emnist:letters", "emnist-letters"),
        ("emnist/by_class", "emnist-byclass"),
        ("ByMerge", "emnist-bymerge"),
        ("emnist digits", "emnist-digits"),
        ("EMNIST-MNIST", "emnist-mnist"),
    ],
)
def test_each_selection_has_one_name_which_others_are_led_to(tmp_path, typed, meant):
    refused(typed, tmp_path, f"unknown data set '{typed}'; expected one of: .*. Did you mean '{meant}'")


def test_the_published_zip_is_taken_without_a_word(tmp_path, monkeypatch, recwarn):
    path = write(tmp_path, "emnist", "zip") / "gzip.zip"
    monkeypatch.setattr(emnist, "_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    for _ in range(2):
        assert load_raw("emnist", tmp_path)[0].digest is None
    assert not recwarn.list
    assert load_raw("emnist", path)[0].digest is None  # the file itself


def test_other_content_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="is not the published data set emnist-mnist"):
        load_raw("emnist-mnist", write(tmp_path, "emnist-mnist"))


def test_it_is_downloaded_where_no_folder_is_given(tmp_path, monkeypatch):
    path = write(tmp_path, "emnist", "zip") / "gzip.zip"
    asked = []
    monkeypatch.setattr(emnist, "download", lambda *given: asked.append(given) or [path])
    assert len(load_raw("emnist")[0].train[0]) == 60
    wanted = {"gzip.zip": "58c8d27c78d21e728a6bc7b3cc06412e"}
    assert asked == [("emnist", "https://biometrics.nist.gov/cs_links/EMNIST/", wanted)]


def refused(name, place, match):
    with pytest.raises(InputError, match=match):
        load_raw(name, place)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("name", "labels", "found"),
    [("emnist-letters", [0] * 60, "-1 to -1; expected 0 to 25"), ("emnist-digits", [10] * 60, "10 to 10; expected 0 to 9")],
)
def test_labels_out_of_range_are_refused(tmp_path, name, labels, found):
    refused(name, write(tmp_path, name, train_labels=idx(np.array(labels))), found)


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    place = write(tmp_path, "emnist", train_labels=idx(np.zeros(59)))
    refused("emnist", place, r"\(60, 28, 28\) train images but 59 labels")
    refused("emnist", write(tmp_path, "emnist", train_images=idx(np.zeros((60, 8, 8)))), r"expected \[n, 28, 28\]")


def test_damaged_missing_and_foreign_files_are_refused(tmp_path):
    refused("emnist", tmp_path, "no files of emnist in .*which exists.*gzip.zip, or emnist-balanced-train-images")
    place = write(tmp_path / "a", "emnist")
    (place / "emnist-balanced-test-labels-idx1-ubyte").unlink()
    refused("emnist", place, "has no emnist-balanced-test-labels-idx1-ubyte or")
    refused("emnist", write(tmp_path / "b", "emnist", train_images=b"<html>"), "is not an IDX file")
    path = write(tmp_path / "c", "emnist", "zip") / "gzip.zip"
    refused("emnist-letters", path, "has 0 files called emnist-letters-train-images-idx3-ubyte.gz, expected one")
    path.write_bytes(path.read_bytes()[:-30])
    refused("emnist", path, "truncated or damaged")


def test_a_zip_that_states_far_too_much_takes_no_memory(tmp_path):
    header = bytes([0, 0, 8, 3]) + np.array([2**31, 28, 28], ">u4").tobytes()
    refused("emnist", write(tmp_path, "emnist", "zip", train_images=header), "truncated or damaged")
