"""CIFAR in archives and pickles that a stranger could have written."""

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest
from support.cifar import check, refused, write
from support.datasets import (
    ARCHIVES,
    cifar_arrays,
    cifar_files,
    python_2_pickle,
    python_3_pickle,
    tar,
    write_files,
)

from evoprune.errors import InputError
from evoprune.problem.load import load_raw
from evoprune.problem.readers import archives
from evoprune.problem.readers.pickled import read_pickle

pytestmark = pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning")


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "cache"))


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
