"""Folders of IDX files: where they lie, and which data set they are."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.datasets import write_cifar, write_emnist
from support.idx import IDX_NAMES, STEMS, arrays, idx, write

from evoprune.errors import InputError
from evoprune.problem.data import content_digest
from evoprune.problem.idx import _KMNIST_MD5, _PUBLISHED, _Published, find_idx_folder
from evoprune.problem.load import DATA, load, load_raw

pytestmark = [
    pytest.mark.usefixtures("no_data_from_outside"),
    # the files made up here; a test of test_idx_folders.py expects it
    pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning"),
]


# IDX files


@pytest.mark.parametrize("name", DATA)
def test_every_loader_gives_images_and_labels(name, tmp_path):
    write_cifar(write_emnist(write(tmp_path)))
    data = load(name, data_dir=tmp_path, seed=0)
    assert list(data.parts()) == ["train", "validation", "test"]
    assert data.name == name
    for x, y in data.parts().values():
        assert x.dtype == torch.float32
        assert x.ndim == 4
        assert x.shape[1] == (3 if name.startswith("cifar") else 1)
        assert y.dtype == torch.int64
        assert y.shape == (len(x),)
    low, high = load(name, data_dir=tmp_path, normalize=False).train[0].aminmax()
    assert (float(low), float(high)) == (0.0, 1.0)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("sub", ["", "mnist", "MNIST/raw"])
def test_idx_files_are_found_where_they_lie(tmp_path, sub, end):
    write(tmp_path / sub, end)
    raw, white = DATA["mnist"]("mnist", tmp_path)
    assert white == 255
    wanted = arrays()
    for part, (x, y) in raw.parts().items():
        assert np.array_equal(x.numpy()[:, 0], wanted[f"{part} images"])
        assert y.tolist() == wanted[f"{part} labels"].tolist()
    assert find_idx_folder("mnist", tmp_path) == tmp_path / sub


def test_fashion_mnist_is_found_beside_mnist(tmp_path):
    write(tmp_path / "MNIST/raw")
    write(tmp_path / "FashionMNIST/raw", ".gz", train_labels=idx(np.full(60, 3)))
    assert set(load("fashion-mnist", data_dir=str(tmp_path)).train[1].tolist()) == {3}
    assert set(load("mnist", data_dir=str(tmp_path)).train[1].tolist()) == {0, 1, 2, 3, 4}


def test_the_published_test_set_stays_the_test_set(tmp_path):
    data = load("mnist", data_dir=write(tmp_path), seed=3, normalize=False)
    assert (len(data.train[0]), len(data.validation[0])) == (54, 6)
    assert torch.equal((data.test[0][:, 0] * 255).round(), torch.from_numpy(arrays()["test images"]).float())


def test_the_environment_names_the_folder_and_data_dir_goes_first(tmp_path, monkeypatch):
    write(tmp_path / "a")
    write(tmp_path / "b", train_labels=idx(np.full(60, 2)))
    monkeypatch.setenv("EVOPRUNE_DATA", str(tmp_path / "a"))
    assert set(load("mnist").train[1].tolist()) == {0, 1, 2, 3, 4}
    assert set(load("mnist", data_dir=tmp_path / "b").train[1].tolist()) == {2}


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    write(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(load("mnist", data_dir="~/data").test[0]) == 20


def test_an_unknown_data_set_is_refused():
    with pytest.raises(InputError, match=r"unknown data set 'mnits'.*Did you mean 'mnist'"):
        load("mnits")


@pytest.mark.parametrize("name", IDX_NAMES)
def test_a_folder_without_the_files_is_refused(name, tmp_path):
    with pytest.raises(InputError) as error:
        load(name, data_dir=tmp_path)
    said = str(error.value)
    for expected in (str(tmp_path), "which exists", *STEMS.values(), f"{name}/", "/raw/", "--data-dir", "EVOPRUNE_DATA"):
        assert expected in said
    with pytest.raises(InputError, match="no such folder"):
        load(name, data_dir=tmp_path / "nosuch")


def test_fashion_mnist_is_taken_from_an_installed_package_before_it_is_downloaded(tmp_path, monkeypatch):
    published = _PUBLISHED["fashion-mnist"]
    assert published.installed == "/usr/share/datasets/fashion-mnist"
    write(tmp_path / "share", ".gz", train_labels=idx(np.full(60, 3)))
    monkeypatch.setitem(_PUBLISHED, "fashion-mnist", replace(published, installed=str(tmp_path / "share")))
    assert set(load("fashion-mnist").train[1].tolist()) == {3}
    assert set(load("fashion-mnist", data_dir=write(tmp_path / "own")).train[1].tolist()) == {0, 1, 2, 3, 4}


def test_an_archive_of_kmnist_goes_before_plain_files_since_its_checksum_is_known(tmp_path, monkeypatch, recwarn):
    write(tmp_path / "KMNIST/raw", train_labels=idx(np.full(60, 3)))
    write(tmp_path / "KMNIST/raw", ".gz")
    for part, stem in STEMS.items():
        content = (tmp_path / "KMNIST/raw" / f"{stem}.gz").read_bytes()
        monkeypatch.setitem(_KMNIST_MD5, part, hashlib.md5(content).hexdigest())
    data, _ = load_raw("kmnist", tmp_path)
    assert set(data.train[1].tolist()) == {0, 1, 2, 3, 4}
    assert data.digest is None
    assert not recwarn.list


def test_one_missing_file_is_named(tmp_path):
    write(tmp_path, test_labels=None)
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte or .*\.gz; put it beside"):
        load("mnist", data_dir=tmp_path)


# Data are what their name says


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Two small published data sets, in folders called after them."""
    for offset, name in enumerate(IDX_NAMES):
        found = {part: idx(array) for part, array in arrays(offset=offset).items()}
        write(tmp_path / name, **{part.replace(" ", "_"): content for part, content in found.items()})
        digests = {part: hashlib.sha256(content).hexdigest() for part, content in found.items()}
        monkeypatch.setitem(_PUBLISHED, name, _Published("", "raw", {}, digests))
    return tmp_path


def move(published, name, part, of, other):
    """Puts a file of one data set in the place of one of another."""
    (published / name / STEMS[part]).write_bytes((published / of / STEMS[other]).read_bytes())


@pytest.mark.parametrize("name", IDX_NAMES)
def test_published_content_is_taken_without_a_word(published, name, recwarn):
    data, _ = load_raw(name, published / name)
    assert data.digest is None
    assert not recwarn.list


def test_another_published_data_set_is_refused_with_both_names(published):
    with pytest.raises(
        InputError, match=r"holds the train images of mnist, expected the train images of fashion-mnist.*ask for"
    ):
        load("fashion-mnist", data_dir=published / "mnist")


@pytest.mark.parametrize("part", STEMS)
def test_one_file_of_another_published_data_set_is_refused(published, part):
    move(published, "mnist", part, "fashion-mnist", part)
    with pytest.raises(InputError, match=f"holds the {part} of fashion-mnist, expected the {part} of mnist"):
        load("mnist", data_dir=published / "mnist")


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_training_files_in_the_place_of_test_files_are_refused(published, kind):
    move(published, "mnist", f"test {kind}", "mnist", f"train {kind}")
    with pytest.raises(InputError, match=f"holds the train {kind} of mnist, expected the test {kind} of mnist"):
        load("mnist", data_dir=published / "mnist")


def test_the_same_unknown_images_twice_are_refused(tmp_path):
    write(tmp_path, test_images=idx(arrays()["train images"]), test_labels=idx(arrays()["train labels"]))
    with pytest.raises(InputError, match="has the same images as train-images"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("part", STEMS)
def test_an_archive_of_kmnist_is_refused(monkeypatch, tmp_path, part):
    archive = write(tmp_path, ".gz") / f"{STEMS[part]}.gz"
    monkeypatch.setitem(_KMNIST_MD5, part, hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=f"holds the {part} of kmnist, expected the {part} of mnist.*names; ask for kmnist"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("part", STEMS)
def test_unknown_content_warns_and_is_recorded_by_its_digest(published, part):
    content = bytearray((published / "mnist" / STEMS[part]).read_bytes())
    content[-1] ^= 1
    (published / "mnist" / STEMS[part]).write_bytes(content)
    with pytest.warns(
        UserWarning, match=rf"mnist is not the published data set mnist: its content \({part}\) is unknown"
    ) as said:
        data, _ = load_raw("mnist", published / "mnist")
    assert len(said) == 1
    assert data.digest == content_digest(data)
    assert data.digest in str(said[0].message)
    assert load("mnist", data_dir=published / "mnist").digest == data.digest
