"""CIFAR-10 and CIFAR-100, in binary files, pickles and archives."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.datasets import (
    ARCHIVES,
    FILES,
    FOLDERS,
    binary,
    cifar_arrays,
    cifar_files,
    python_2_pickle,
    python_3_pickle,
    tar,
    write_files,
)

from evoprune.errors import InputError
from evoprune.problem import download as download_module
from evoprune.problem.data import content_digest
from evoprune.problem.load import load, load_raw
from evoprune.problem.readers import archives, cifar
from evoprune.problem.readers.pickled import read_pickle

pytestmark = pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning")

NAMES = sorted(FILES)
FORMS = ["binary", "python"]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "cache"))


def write(place, name, form, archive=False, **changes):
    """Writes a data set's files, or its archive, and returns the folder or archive."""
    files = cifar_files(name, form) | {f"{file}{'.bin' * (form == 'binary')}": content for file, content in changes.items()}
    files = {file: content for file, content in files.items() if content is not None}
    if not archive:
        return write_files(place / FOLDERS[name, form], files)
    place.mkdir(parents=True, exist_ok=True)
    folder = FOLDERS[name, form]
    extra = {f"{folder}/batches.meta.txt": b"apple\n", f"{folder}/readme.html": b"<html>"}
    path = place / ARCHIVES[name, form]
    path.write_bytes(tar(extra | {f"{folder}/{file}": content for file, content in files.items()}))
    return path


def check(data, name):
    arrays = cifar_arrays(name)
    *train, test = FILES[name]
    for part, files in (("train", train), ("test", [test])):
        x, y = data.parts()[part]
        assert x.dtype == torch.uint8
        assert np.array_equal(x.numpy(), np.concatenate([arrays[file][0] for file in files]).reshape(-1, 3, 32, 32))
        assert y.tolist() == [label for file in files for label in arrays[file][1]]
    assert data.name == name


def refused(name, place, *words):
    with pytest.raises(InputError) as error:
        load_raw(name, place)
    for word in (*words, "--data-dir", "EVOPRUNE_DATA"):
        assert word in str(error.value)


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


# Archives of strangers


def most(function):
    """Returns the most memory that a refused reading took, in bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            function()
        return tracemalloc.get_traced_memory()[1], str(error.value)
    finally:
        tracemalloc.stop()


def bomb(path, size, **facts):
    """Writes an archive whose first member has zeros."""
    with gzip.open(path, "wb", 1) as stream:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = size
        for name, value in facts.items():
            setattr(member, name, value)
        stream.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(0, size, 1 << 20):
            stream.write(bytes(1 << 20))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.DIRTYPE])
def test_an_archive_that_unpacks_to_far_too_much_takes_no_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 22)
    bomb(tmp_path / ARCHIVES["cifar10", "binary"], 1 << 26, type=kind)  # 64 MiB in some 300 kB
    memory, said = most(lambda: load_raw("cifar10", tmp_path))
    assert memory < 1 << 24
    assert "truncated or damaged" in said


def test_nothing_of_an_archive_is_written_by_its_names(tmp_path):
    path = write(tmp_path / "data", "cifar100", "binary", archive=True)
    files = cifar_files("cifar100", "binary")
    path.write_bytes(tar({"../../train.bin": files["train.bin"], "/test.bin": files["test.bin"], "../evil": b"x"}))
    check(load_raw("cifar100", path)[0], "cifar100")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cache", "data"]
    written = {each.name for each in (tmp_path / "cache").rglob("*") if each.is_file() and each.suffix != ".lock"}
    assert written == {"index.json", *(f"{part}-{kind}.npy" for part in ("train", "test") for kind in ("images", "labels"))}


def test_a_member_twice_or_a_link_is_refused(tmp_path):
    stream = io.BytesIO()
    content = cifar_files("cifar100", "binary")["train.bin"]
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("a/train.bin", "b/train.bin"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    write_files(tmp_path, {ARCHIVES["cifar100", "binary"]: stream.getvalue()})
    refused("cifar100", tmp_path, "train.bin is there twice")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("train.bin")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    write_files(tmp_path, {ARCHIVES["cifar100", "binary"]: stream.getvalue()})
    refused("cifar100", tmp_path, "has no train.bin, test.bin")


# Pickles of strangers


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("archive", [False, True], ids=["files", "archive"])
def test_a_pickle_that_runs_a_command_is_refused_by_name_and_runs_nothing(tmp_path, protocol, archive):
    (tmp_path / "data").mkdir()
    content = pickle.dumps({b"data": Evil(tmp_path / "evil"), b"labels": []}, protocol=protocol)
    write(tmp_path / "data", "cifar10", "python", archive, data_batch_1=content)
    refused("cifar10", tmp_path / "data", "data_batch_1", "it wants posix.system; expected plain values and arrays alone")
    pickle.loads(content)  # it would have
    assert (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"cbuiltins\neval\n(U\x011tR.", "it wants builtins.eval"),
        (b"(U\x011ibuiltins\neval\n.", "instruction INST"),
        (b"(U\x011U\x012o.", "instruction OBJ"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"Pid\n.", "instruction PERSID"),
        (b"cnumpy\nload\n.", "it wants numpy.load"),
        (b"c_codecs\ndecode\n.", "it wants _codecs.decode"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "it wants posix.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0blib.npyio.x\x93.", "it wants numpy.lib"),
        (b"c_codecs\nencode\nX\x03\x00\x00\x00abcU\x03zip\x86R.", "encodes text otherwise"),
        (b"r\xff\xff\xff\x7fN.", "."),
        (b"Nr\xff\xff\xff\x7f.", "more than 2,000 instructions"),
        (b"]" * 3000 + b".", "more than 2,000 instructions"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc", "."),
        (b"N", "."),
        (b"", "."),
    ],
)
def test_what_a_pickle_may_not_do_is_refused(content, match):
    tracemalloc.start()
    with pytest.raises(ValueError, match=match):
        read_pickle(content)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < 1 << 23


def test_text_is_not_encoded_again_and_again():
    text = b"X\x00\x10\x00\x00" + b"a" * 4096 + b"q\x01"
    once = b"c_codecs\nencode\nh\x01U\x06latin1\x86R"
    assert read_pickle(text + once + b"\x86.")[1] == b"a" * 4096
    with pytest.raises(ValueError, match="encodes text otherwise"):
        read_pickle(text + b"(" + once * 100 + b"t.")


def test_arrays_of_other_types_and_shapes_are_refused():
    images, labels = cifar_arrays("cifar10")["test_batch"]
    for values in (images[:, :5].astype(np.float32), images[:, :5].astype(object), images > 7):
        with pytest.raises(ValueError, match="another type than uint8"):
            read_pickle(python_3_pickle(values, labels, "labels"))
    whole = python_2_pickle(images, labels, "labels")
    huge = whole.replace(b"K\x01J" + (12).to_bytes(4, "little"), b"K\x01J" + (2**30).to_bytes(4, "little"))
    assert huge != whole
    with pytest.raises(ValueError, match="36,864 bytes for the shape"):
        read_pickle(huge)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1], "it has list; expected a dictionary"),
        ({b"labels": [1]}, "its data are not an array of bytes"),
        ({b"data": b"x" * 3072, b"labels": [1]}, "its data are not an array of bytes"),
        ({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, "its data are not an array of bytes"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}, "it has an array of another type than uint8"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "its labels are not a list of 2 integers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, b"2"]}, "its labels are not a list of 2 integers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1, 2]}, "its labels are not a list of 2 integers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2**80]}, "has the label"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, values, match):
    write(tmp_path, "cifar10", "python", data_batch_1=pickle.dumps(values, protocol=2))
    refused("cifar10", tmp_path, "data_batch_1", match)


def test_damaged_pickles_are_refused_or_read_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = cifar_arrays("cifar10", 2)["test_batch"]
    whole = python_2_pickle(images[:, :6], labels, "labels")
    outcomes = {"refused": 0, "read": 0}
    for _ in range(1000):
        content = bytearray(whole)
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            content[at] = rng.integers(256)
        try:
            read_pickle(bytes(content))
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


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
