"""CIFAR-10 and CIFAR-100, in binary files, pickles and archives."""

import hashlib
import os
from dataclasses import replace

import pytest
from support.cifar import check, refused, write
from support.datasets import (
    ARCHIVES,
    FILES,
    FOLDERS,
    binary,
    cifar_arrays,
    cifar_files,
    python_2_pickle,
    python_3_pickle,
    write_files,
)

from evoprune.errors import InputError
from evoprune.problem import download as download_module
from evoprune.problem.data import content_digest
from evoprune.problem.load import load, load_raw
from evoprune.problem.readers import cifar

pytestmark = pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning")

NAMES = sorted(FILES)
FORMS = ["binary", "python"]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("archive", [False, True], ids=["files", "archive"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_all_forms_give_the_same_data(tmp_path, name, form, archive):
    write(tmp_path, name, form, archive)
    data, white = load_raw(name, tmp_path)
    check(data, name)
    assert white == 255
    assert len(data.classes) == (10 if name == "cifar10" else 100)
    assert data.digest == content_digest(data)
    again, _ = load_raw(name, write(tmp_path / "other", name, "binary").parent)
    assert again.digest == data.digest  # the form does not count


@pytest.mark.parametrize("place", [".", "cifar10", "itself"])
@pytest.mark.parametrize("archive", [False, True], ids=["files", "archive"])
def test_they_are_found_where_they_lie(tmp_path, monkeypatch, place, archive):
    path = write(tmp_path / ("cifar10" if place == "cifar10" else "."), "cifar10", "binary", archive)
    given = path if place == "itself" else tmp_path
    check(load_raw("cifar10", given)[0], "cifar10")
    monkeypatch.setenv("EVOPRUNE_DATA", str(given))
    check(load_raw("cifar10")[0], "cifar10")


def test_a_python_batch_of_python_3_is_read_too(tmp_path):
    for protocol in range(5):
        files = {file: python_3_pickle(x, y, "labels", protocol) for file, (x, y) in cifar_arrays("cifar10").items()}
        check(load_raw("cifar10", write_files(tmp_path / str(protocol), files))[0], "cifar10")


def test_the_classes_are_the_published_ones(tmp_path):
    assert load_raw("cifar10", write(tmp_path, "cifar10", "binary"))[0].classes[:3] == ("airplane", "automobile", "bird")
    classes = load_raw("cifar100", write(tmp_path, "cifar100", "binary"))[0].classes
    assert classes == tuple(sorted(classes))
    assert (classes[0], classes[99]) == ("apple", "worm")


def test_a_split_has_channels_and_a_fixed_test_set(tmp_path):
    write(tmp_path, "cifar10", "binary")
    data = load("cifar10", data_dir=tmp_path, normalize=False)
    assert [tuple(x.shape) for x, _ in data.parts().values()] == [(54, 3, 32, 32), (6, 3, 32, 32), (12, 3, 32, 32)]


# The published content


def with_checksums(form, digests):
    return replace(form, **{part: {file: digests[file] for file in getattr(form, part)} for part in ("train", "test")})


@pytest.fixture
def published(monkeypatch):
    """Lets the checksums of the small files be the published ones."""
    forms = {
        name: tuple(
            with_checksums(form, {file: hashlib.new(kind, content).hexdigest() for file, content in files.items()})
            for form, files, kind in zip(
                cifar._FORMATS[name], (cifar_files(name, "binary"), cifar_files(name, "python")), ("sha1", "md5"), strict=True
            )
        )
        for name in NAMES
    }
    for name, each in forms.items():
        monkeypatch.setitem(cifar._FORMATS, name, each)


@pytest.mark.parametrize("archive", [False, True], ids=["files", "archive"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_published_content_is_taken_without_a_word(tmp_path, published, recwarn, name, form, archive):
    write(tmp_path, name, form, archive)
    for _ in range(2):  # decoded, and from the cache
        data, _ = load_raw(name, tmp_path)
        assert data.digest is None
        assert not recwarn.list


def test_unknown_content_is_named_each_time(tmp_path, published):
    images, labels = cifar_arrays("cifar10")["data_batch_3"]
    write(tmp_path, "cifar10", "binary", data_batch_3=binary("cifar10", images ^ 1, labels))
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"not the published data set cifar10: its content \(data_batch_3.bin\) is unknown"
        ):
            data, _ = load_raw("cifar10", tmp_path)
        assert data.digest == content_digest(data)


def test_another_published_file_is_refused(tmp_path, published):
    files = cifar_files("cifar10", "binary")
    write(tmp_path, "cifar10", "binary", test_batch=files["data_batch_2.bin"])
    refused("cifar10", tmp_path, "test_batch.bin holds data_batch_2.bin of cifar10; expected test_batch.bin of cifar10")


def test_the_checksums_are_those_of_each_file():
    for name, forms in cifar._FORMATS.items():
        for form, ending, length in zip(forms, (".bin", ""), (40, 32), strict=True):
            assert list(form.files) == [f"{file}{ending}" for file in FILES[name]]
            assert {len(digest) for digest in form.files.values()} == {length}


# Damaged files


@pytest.mark.parametrize(("name", "record"), [("cifar10", 3073), ("cifar100", 3074)])
@pytest.mark.parametrize("archive", [False, True], ids=["files", "archive"])
def test_files_of_a_wrong_size_are_refused(tmp_path, name, record, archive):
    file = FILES[name][-1]
    whole = cifar_files(name, "binary")[f"{file}.bin"]
    for content in (whole[:-1], whole + b"x", b""):
        write(tmp_path, name, "binary", archive, **{file: content})
        refused(name, tmp_path, f"{file}.bin", f"{len(content):,} bytes; expected a multiple of {record:,}")


def test_the_files_of_the_other_data_set_are_refused(tmp_path):
    ten = cifar_files("cifar10", "binary")
    write(tmp_path, "cifar100", "binary", train=ten["data_batch_1.bin"], test=ten["test_batch.bin"])
    refused("cifar100", tmp_path, "train.bin", "36,876 bytes; expected a multiple of 3,074")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "label"), [("cifar10", 10), ("cifar100", 100), ("cifar100", 255)])
def test_labels_out_of_range_are_refused(tmp_path, name, form, label):
    file = FILES[name][0]
    images, labels = cifar_arrays(name)[file]
    labels = [*labels[:4], label, *labels[5:]]
    key = "labels" if name == "cifar10" else "fine_labels"
    content = binary(name, images, labels) if form == "binary" else python_2_pickle(images, labels, key)
    write(tmp_path, name, form, **{file: content})
    refused(name, tmp_path, file, f"has the label {label} at image 4; expected 0 to {9 if name == 'cifar10' else 99}")


def test_the_same_images_to_train_and_test_are_refused(tmp_path):
    files = cifar_files("cifar100", "binary")
    write(tmp_path, "cifar100", "binary", test=files["train.bin"])
    with pytest.raises(InputError, match="same images to test as to train; fetch it anew"):
        load_raw("cifar100", tmp_path)


@pytest.mark.parametrize("archive", [False, True], ids=["files", "archive"])
def test_a_missing_file_is_named(tmp_path, archive):
    write(tmp_path, "cifar10", "binary", archive, data_batch_4=None)
    refused("cifar10", tmp_path, "data_batch_4.bin")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_files_is_refused(tmp_path, name):
    refused(name, tmp_path, "which exists", *(FOLDERS[name, form] for form in FORMS), *(ARCHIVES[name, form] for form in FORMS))
    refused(name, tmp_path / "nosuch", "no such folder")


@pytest.mark.parametrize("cut", [5, 3000, -3])  # the header, the stream, the checksum at the end
def test_a_truncated_archive_is_refused(tmp_path, cut):
    path = write(tmp_path, "cifar10", "binary", archive=True)
    path.write_bytes(path.read_bytes()[:cut])
    refused("cifar10", tmp_path, str(path), "truncated or damaged", "expected a whole .tar.gz archive")


def test_a_pipe_is_not_waited_for(tmp_path):
    path = write(tmp_path, "cifar10", "binary") / "test_batch.bin"
    path.unlink()
    os.mkfifo(path)
    refused("cifar10", tmp_path, str(path), "no regular file")


# Downloading


def test_the_binary_archive_is_downloaded_and_checked(tmp_path, monkeypatch):
    path = write(tmp_path, "cifar10", "binary", archive=True)
    asked = []
    monkeypatch.setattr(cifar, "download", lambda *given: asked.append(given) or [path])
    check(load_raw("cifar10")[0], "cifar10")
    assert asked == [
        ("cifar10", "https://www.cs.toronto.edu/~kriz/", {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"})
    ]


def test_a_download_that_fails_is_said_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(
        InputError, match=r"cannot download http://127.0.0.1:1/a.gz.*Fetch the file by other means.*EVOPRUNE_DATA"
    ):
        download_module.download("x", "http://127.0.0.1:1/", {"a.gz": "0" * 32})
