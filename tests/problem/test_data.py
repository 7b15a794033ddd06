import functools
import gc
import gzip
import hashlib
import http.server
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from support.datasets import write_cifar, write_emnist

from evoprune.errors import InputError
from evoprune.problem import data as datasets
from evoprune.problem import load as load_module
from evoprune.problem.data import Data, content_digest
from evoprune.problem.examples import inputs_of
from evoprune.problem.idx import _IDX_FILES, _KMNIST_MD5, _PUBLISHED, _Published, find_idx_folder, read_idx
from evoprune.problem.load import DATA, load, load_raw

pytestmark = [
    # urllib3 leaves a socket to the garbage collector where a download fails
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    # the files made up here; test_unknown_content_warns_and_is_recorded_by_its_digest expects it
    pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning"),
]

IDX_NAMES = sorted(_PUBLISHED)
STEMS = _IDX_FILES
TRAIN_IMAGES, TRAIN_LABELS = STEMS["train images"], STEMS["train labels"]


@pytest.fixture(autouse=True)
def no_data_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.delenv("EVOPRUNE_CACHE", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def arrays(train=60, test=20, offset=0):
    rng = np.random.default_rng(offset)
    found = {}
    for part, n in (("train", train), ("test", test)):
        found[f"{part} images"] = rng.integers(0, 256, (n, 28, 28))
        found[f"{part} labels"] = (np.arange(n) + offset) % 5
    return found


def write(folder, end="", **changes):
    """Writes the four files, a part replaced where named (its blank an underscore)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in arrays().items():
        content = changes.get(part.replace(" ", "_"), idx(array))
        if content is not None:
            path = folder / f"{STEMS[part]}{end}"
            path.write_bytes(gzip.compress(content, 1) if end else content)
    return folder


# The split and a user's own tensors


def as_sets(data):
    return {name: {int(value) for value in x[:, 0]} for name, (x, _) in data.parts().items()}


def numbered(n, classes=4):
    """Inputs that are their own row numbers."""
    return torch.arange(n).float()[:, None], torch.arange(n) % classes


def test_a_split_uses_every_row_once_and_keeps_its_target():
    x, y = numbered(200)
    data = Data(train=(x, y)).split(seed=0)
    assert {name: len(pair[0]) for name, pair in data.parts().items()} == {"train": 140, "validation": 20, "test": 40}
    sets = as_sets(data)
    assert set.union(*sets.values()) == set(range(200))
    assert sum(map(len, sets.values())) == 200
    for inputs, targets in data.parts().values():
        assert torch.equal(targets, y[inputs[:, 0].long()])


def test_a_split_is_seeded():
    data = Data(train=numbered(200))
    assert as_sets(data.split(seed=1)) == as_sets(data.split(seed=1))
    assert as_sets(data.split(seed=1)) != as_sets(data.split(seed=2))


def test_a_split_leaves_the_global_state_of_numpy():
    before = np.random.get_state()[1].copy()
    Data(train=numbered(200)).split(seed=0)
    assert np.array_equal(np.random.get_state()[1], before)


def test_own_parts_stay_as_they_are():
    train, validation, test = numbered(100), numbered(8), numbered(12)
    data = Data(train, validation, test).split(seed=0, validation_fraction=-3, test_fraction=7)  # not asked for
    for given, kept in zip((train, validation, test), data.parts().values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_only_a_missing_part_is_split_off(part):
    given = numbered(12)
    data = Data(train=numbered(100), **{part: given}).split(seed=0, validation_fraction=0.2, test_fraction=0.2)
    assert all(torch.equal(a, b) for a, b in zip(given, data.parts()[part], strict=True))
    other = {"validation": "test", "test": "validation"}[part]
    sets = as_sets(data)
    assert len(sets[other]) == 20
    assert sets["train"] | sets[other] == set(range(100))


def test_regression_targets_are_split_without_classes():
    x, _ = numbered(50)
    data = Data(train=(x, x * 0.5)).split(seed=0)
    assert set.union(*as_sets(data).values()) == set(range(50))
    assert data.train[1].dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.bool_])
def test_arrays_are_taken_and_labels_become_int64(dtype):
    x, y = np.arange(20.0, dtype=np.float32).reshape(10, 2), (np.arange(10) % 2).astype(dtype)
    data = Data(train=(x, y), name="mine")
    assert torch.equal(data.train[0], torch.from_numpy(x))
    assert data.train[1].dtype == torch.int64
    assert data.train[1].tolist() == [0, 1] * 5
    assert data.name == data.split(0, 0.2, 0.2).name == "mine"


def test_with_parts_and_to_keep_the_rest():
    data = Data(train=numbered(10), name="mine")
    assert list(data.parts()) == ["train"]
    both = data.with_parts({"test": numbered(3)}).to("cpu")
    assert list(both.parts()) == ["train", "test"]
    assert both.name == "mine"
    assert data.test is None


X, Y = np.zeros((6, 2), np.float32), np.zeros(6, np.int64)


@pytest.mark.parametrize(
    "pair",
    [(X, Y[:5]), (X[:0], Y[:0]), (X[:, 0], Y), (X, Y[0]), (X,), X[0, 0], "digits", (X, ["a"] * 6), None],
    ids=["lengths", "empty", "flat inputs", "one target", "no targets", "number", "name", "words", "none"],
)
def test_bad_pairs_are_refused(pair):
    with pytest.raises(InputError, match=r"train (has|is).*expected"):
        Data(train=pair)


def test_a_bad_part_is_named():
    with pytest.raises(InputError, match=r"validation has inputs \(6, 2\) and targets \(5,\)"):
        Data(train=(X, Y), validation=(X, Y[:5]))


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(InputError, match="test fraction"):
        Data(train=numbered(20)).split(0, test_fraction=fraction)
    with pytest.raises(InputError, match="validation fraction"):
        Data(train=numbered(20)).split(0, validation_fraction=fraction)


def test_too_few_examples_are_refused():
    with pytest.raises(InputError, match="2 training examples cannot be split"):
        Data(train=numbered(2)).split(0)
    with pytest.raises(InputError, match="cannot be split"):
        Data(train=numbered(20)).split(0, 0.5, 0.5)


def test_a_part_too_small_for_every_class_has_its_size_all_the_same():
    data = Data(train=numbered(20, classes=10)).split(0)  # a validation set of 2 cannot hold 10 classes
    assert [len(x) for x, _ in data.parts().values()] == [14, 2, 4]


# Digits


@pytest.fixture(scope="module")
def digits():
    return load("digits", seed=0)


def test_digits_has_all_images_once(digits):
    from sklearn.datasets import load_digits

    sizes = {name: len(pair[0]) for name, pair in digits.parts().items()}
    assert sizes == {"train": 1258, "validation": 180, "test": 359}
    raw = load("digits", seed=0, normalize=False)
    rows = torch.cat([torch.cat([x.flatten(1), y[:, None]], 1) for x, y in raw.parts().values()])
    bunch = load_digits()
    wanted = np.column_stack([bunch.data / 16, bunch.target])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_digits_are_the_same_where_scikit_learn_has_no_file_of_that_name(digits, monkeypatch):
    monkeypatch.setattr(load_module, "find_spec", lambda name: None)
    again = load("digits", seed=0)
    assert all(
        torch.equal(x, y) for part, pair in digits.parts().items() for x, y in zip(pair, again.parts()[part], strict=True)
    )
    assert again.digest is None  # the content that is known


def test_digits_parts_keep_the_proportions_of_classes(digits):
    counts = {name: np.bincount(y.numpy(), minlength=10) for name, (_, y) in digits.parts().items()}
    whole = sum(counts.values())
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for part in counts.values():
        assert np.abs(part - whole * part.sum() / 1797).max() <= 1


def test_digits_is_seeded(digits):
    again, other = load("digits", seed=0), load("digits", seed=1)
    assert torch.equal(again.test[0], digits.test[0])
    assert not torch.equal(other.test[0], digits.test[0])


def test_digits_is_normalised_by_its_training_part(digits):
    x = digits.train[0].double()
    assert float(x.mean()) == pytest.approx(0, abs=1e-6)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert abs(float(digits.test[0].mean())) > 1e-4  # not by its own


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


def refused(path, match):
    with pytest.raises(InputError, match=match) as error:
        load("mnist", data_dir=path.parent)
    assert str(path) in str(error.value)
    assert "fetch it anew, or name another folder with --data-dir or EVOPRUNE_DATA" in str(error.value)


# 5 cuts the gzip header, 30 the stream, -3 the checksum at the end
@pytest.mark.parametrize("cut", [5, 30, -3])
def test_a_truncated_gzip_file_is_refused(tmp_path, cut):
    path = write(tmp_path, ".gz") / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:cut])
    refused(path, "expected a whole gzip file")


def test_a_damaged_gzip_file_is_refused(tmp_path):
    path = write(tmp_path, ".gz") / f"{TRAIN_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    refused(path, "damaged|cannot read")


@pytest.mark.parametrize("cut", [17, -1])
def test_a_truncated_plain_file_is_refused(tmp_path, cut):
    path = write(tmp_path) / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:cut])
    refused(path, r"truncated.* expected 47,056 for the shape \(60, 28, 28\)")  # 16 + 60 * 784


def test_a_plain_file_with_something_after_it_is_refused(tmp_path):
    path = write(tmp_path) / TRAIN_LABELS
    path.write_bytes(path.read_bytes() + b"x")
    refused(path, r"69 bytes, expected 68 for the shape \(60,\)")


@pytest.mark.parametrize(
    ("content", "start"),
    [(b"", "nothing"), (b"<html>Not found", "3c68746d"), (idx(np.zeros(60)), "00000801"), (b"\0\0\x08\x03\0", "00000803")],
    ids=["empty", "foreign", "labels", "header"],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_foreign_file_is_refused(tmp_path, content, start, end):
    write(tmp_path, end, train_images=content)
    refused(tmp_path / f"{TRAIN_IMAGES}{end}", f"starts with {start}, expected 00000803")


def test_a_file_that_is_called_gz_but_is_not_is_refused(tmp_path):
    path = write(tmp_path, ".gz") / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(b"<html>Not found</html>")
    refused(path, "(?i)not a gzipped file")


def test_images_and_labels_of_different_numbers_are_refused(tmp_path):
    write(tmp_path, train_labels=idx(np.zeros(59)))
    with pytest.raises(InputError, match="60 train images but 59 labels; fetch both anew") as error:
        load("mnist", data_dir=tmp_path)
    assert str(tmp_path) in str(error.value)


def test_images_of_different_sizes_are_refused(tmp_path):
    write(tmp_path, test_images=idx(np.zeros((20, 8, 8))))
    with pytest.raises(InputError, match="test images of another size"):
        load("mnist", data_dir=tmp_path)


def test_read_idx_of_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nosuch"):
        read_idx(tmp_path / "nosuch", 3)


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


def test_other_digits_than_scikit_learns_warn(monkeypatch):
    monkeypatch.setattr(load_module, "_DIGITS", "")
    with pytest.warns(UserWarning, match="scikit-learn's digits is not the published data set digits"):
        assert load("digits").digest is not None


def test_the_content_digest_tells_content_part_and_type():
    x, y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1] * 3)
    data = Data(train=(x, y), test=(x + 1, y))
    others = {
        "input": Data(train=(x + torch.eye(6, 2) * 1e-6, y), test=(x + 1, y)),
        "target": Data(train=(x, 1 - y), test=(x + 1, y)),
        "type": Data(train=(x.double(), y), test=(x + 1, y)),
        "shape": Data(train=(x[:, None], y), test=(x[:, None] + 1, y)),
        "part": Data(train=(x, y), validation=(x + 1, y)),
        "missing": Data(train=(x, y)),
        "classes": Data(train=(x, y), test=(x + 1, y), classes=("no", "yes")),
    }
    assert len({content_digest(each) for each in (data, *others.values())}) == 1 + len(others)
    assert content_digest(data) == content_digest(Data(train=(x.clone(), y), test=(x + 1, y), name="other"))
    assert content_digest(data) == content_digest(Data(train=(x.T.contiguous().T, y), test=(x + 1, y)))


# Files from strangers


def test_a_header_whose_product_overflows_is_refused(tmp_path):
    header = bytes([0, 0, 8, 3]) + np.array([2**31, 2**31, 4], ">u4").tobytes()  # 0 in 64 bits
    for end in ("", ".gz"):
        path = write(tmp_path / (end or "plain"), end, train_images=header) / f"{TRAIN_IMAGES}{end}"
        refused(path, r"expected 18,446,744,073,709,551,632 for the shape \(2147483648, 2147483648, 4\)")


@pytest.mark.parametrize("shape", [(0, 28, 28), (60, 0, 28)])
def test_an_empty_shape_is_refused(tmp_path, shape):
    refused(write(tmp_path, train_images=idx(np.zeros(shape))) / TRAIN_IMAGES, "which is empty")


def test_a_pipe_a_folder_and_a_dangling_link_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.gz").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "folder.gz", "link"):
        with pytest.raises(InputError, match="cannot read"):
            read_idx(tmp_path / name, 3)
        write(tmp_path / f"with {name}", train_images=None)
        (tmp_path / name).rename(tmp_path / f"with {name}" / TRAIN_IMAGES)
        with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte or"):
            load("mnist", data_dir=tmp_path / f"with {name}")


@pytest.mark.parametrize("given", [5, "~nosuchuser/data", "null\0byte", "n" * 5000])
def test_a_data_dir_that_cannot_be_one_is_refused(given):
    with pytest.raises(InputError, match="expected"):
        load("mnist", data_dir=given)


def test_members_of_an_archive_are_read_and_garbage_after_them_is_refused(tmp_path):
    content = idx(np.arange(60))
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(content[:30]) + gzip.compress(content[30:]))
    assert read_idx(path, 1).tolist() == list(range(60))
    path.write_bytes(gzip.compress(content) + b"garbage")
    with pytest.raises(InputError, match="cannot read"):
        read_idx(path, 1)


def peak(path, dimensions):
    """Returns the most memory that reading took, in bytes, and what came of it."""
    tracemalloc.start()
    try:
        return read_idx(path, dimensions), tracemalloc.get_traced_memory()[1]
    except InputError as error:
        return error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stated", [10, 10**6, 10**9, 2**32 - 1])
def test_an_archive_of_zeros_takes_no_more_memory_than_it_may(tmp_path, stated):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", 1) as stream:
        stream.write(bytes([0, 0, 8, 1]) + np.array([stated], ">u4").tobytes())
        for _ in range(64):
            stream.write(bytes(1 << 22))  # 256 MiB in 1 MB
    found, memory = peak(path, 1)
    assert isinstance(found, InputError)
    assert memory < 3 * min(stated, 10**6) + 2**22


def mutants(count):
    """Yields IDX files, plain or packed, that someone has damaged, seeded."""
    rng = np.random.default_rng(0)
    whole = idx(rng.integers(0, 256, (20, 6, 5)))
    for _ in range(count):
        content, packed = bytearray(whole), bool(rng.integers(2))
        mutation = rng.integers(6)
        if mutation == 0:  # the header
            content[rng.integers(16)] = rng.integers(256)
        elif mutation == 1:  # one of its sizes
            at = 4 + 4 * rng.integers(3)
            content[at : at + 4] = rng.choice([0, 1, 5, 6, 20, 2**16, 2**31, 2**32 - 1]).astype(">u4").tobytes()
        content = bytearray(gzip.compress(content, mtime=0)) if packed else content
        if mutation == 2:  # bits
            for at in rng.integers(len(content), size=rng.integers(1, 9)):
                content[at] ^= 1 << rng.integers(8)
        elif mutation == 3:
            del content[rng.integers(len(content)) :]
        elif mutation == 4:
            content += rng.bytes(rng.integers(1, 40))
        elif mutation == 5:
            at = rng.integers(len(content))
            content[at : at + 10] = rng.bytes(rng.integers(20))
        yield bytes(content), ".gz" if packed or rng.integers(8) == 0 else ""


def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path):
    outcomes = {"refused": 0, "read": 0}
    for content, end in mutants(1000):
        path = tmp_path / f"images{end}"
        path.write_bytes(content)
        found, memory = peak(path, 3)
        assert memory < 2**22
        if isinstance(found, InputError):
            assert str(path) in str(found)
            outcomes["refused"] += 1
        else:
            assert found.dtype == np.uint8
            assert found.size == 600
            outcomes["read"] += 1
    assert min(outcomes.values()) > 50


# Downloading, from a server of our own


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = write(tmp_path / "served", ".gz")
    handler = functools.partial(Quiet, directory=str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests, server.folder = [], folder
        md5 = {part: hashlib.md5((folder / f"{stem}.gz").read_bytes()).hexdigest() for part, stem in STEMS.items()}
        url = f"http://127.0.0.1:{server.server_port}/"
        server.published = _Published(url, "MNIST/raw", md5, {})
        for name in IDX_NAMES:
            monkeypatch.setitem(_PUBLISHED, name, server.published)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    gc.collect()  # what is left is closed here, under the filter above


@pytest.mark.parametrize("name", IDX_NAMES)
def test_a_download_gives_the_data_and_is_cached(server, name, tmp_path):
    first = load(name)
    assert torch.equal(first.test[1], torch.from_numpy(arrays()["test labels"]))
    assert sorted(server.requests) == sorted(f"/{stem}.gz" for stem in STEMS.values())
    assert {path.name for path in (tmp_path / "cache/evoprune" / name).iterdir()} == {f"{s}.gz" for s in STEMS.values()}
    second = load(name)
    assert torch.equal(second.train[0], first.train[0])
    assert len(server.requests) == 4


def test_a_download_shows_its_progress(server, capfd):
    load("mnist")
    assert "100%" in capfd.readouterr().err


def test_a_damaged_cache_is_fetched_anew(server, tmp_path):
    load("mnist")
    path = tmp_path / f"cache/evoprune/mnist/{TRAIN_LABELS}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(load("mnist").test[0]) == 20
    assert len(server.requests) == 5


def test_nothing_is_downloaded_where_a_folder_is_named(server, tmp_path):
    with pytest.raises(InputError):
        load("mnist", data_dir=tmp_path / "empty")
    assert server.requests == []


def download_refused(match):
    with pytest.raises(InputError, match=match) as error:
        load("mnist")
    said = str(error.value)
    assert "cannot download http://127.0.0.1" in said
    assert f"{TRAIN_IMAGES}.gz" in said
    assert "Fetch the four files by other means" in said
    assert "--data-dir or EVOPRUNE_DATA" in said


def test_a_download_with_a_wrong_checksum_is_refused(server, tmp_path):
    (server.folder / f"{TRAIN_IMAGES}.gz").write_bytes(b"something else")
    download_refused("(?i)hash")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == []  # the next run does not take it for the file


def test_a_download_that_is_not_there_is_refused(server):
    os.remove(server.folder / f"{TRAIN_IMAGES}.gz")  # noqa: PTH107
    download_refused("404")


def test_a_server_that_cannot_be_reached_is_said(server):
    server.shutdown()
    server.server_close()
    download_refused("127.0.0.1")


# MNIST itself


@pytest.fixture(scope="module")
def mnist():
    for given in (os.environ.get("EVOPRUNE_DATA"), Path(__file__).parents[2] / "shared/data/mnist"):
        if given and find_idx_folder("mnist", Path(given)):
            return DATA["mnist"]("mnist", given)[0]
    pytest.skip("MNIST is neither in EVOPRUNE_DATA nor in ../shared/data/mnist")


@pytest.mark.mnist
def test_mnist_is_the_published_one(mnist):
    assert mnist.train[0].shape == (60_000, 1, 28, 28)
    assert mnist.test[0].shape == (10_000, 1, 28, 28)
    assert mnist.train[1][:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test[1][:5].tolist() == [7, 2, 1, 0, 4]
    mean, std = datasets._pixel_statistics(inputs_of(mnist.train[0], "inputs"))
    assert (round(float(mean) / 255, 4), round(float(std) / 255, 4)) == (0.1307, 0.3081)


@pytest.mark.mnist
@pytest.mark.parametrize("name", IDX_NAMES)
def test_the_published_files_are_known_and_asked_for_by_another_name_refused(name, mnist_dir, recwarn):
    folder = mnist_dir.parent / name
    if not folder.is_dir():
        pytest.skip(f"no {name} beside MNIST")
    assert load_raw(name, folder)[0].digest is None
    assert not recwarn.list
    other = IDX_NAMES[IDX_NAMES.index(name) - 1]
    with pytest.raises(InputError, match=f"holds the train images of {name}, expected the train images of {other}"):
        load_raw(other, folder)


@pytest.mark.mnist
def test_mnist_is_split_by_class(mnist):
    data = mnist.split(seed=0)
    assert {name: len(y) for name, (_, y) in data.parts().items()} == {"train": 54_000, "validation": 6_000, "test": 10_000}
    whole, part = (np.bincount(pair[1].numpy(), minlength=10) for pair in (mnist.train, data.validation))
    assert np.abs(part - whole / 10).max() <= 1
    assert data.test[0] is mnist.test[0]
