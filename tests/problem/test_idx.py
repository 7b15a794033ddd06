"""IDX files that are damaged, truncated or hostile."""

import gzip
import os
import tracemalloc

import numpy as np
import pytest
import torch
from support.idx import TRAIN_IMAGES, TRAIN_LABELS, idx, write

from evoprune.errors import InputError
from evoprune.problem.data import Data, content_digest
from evoprune.problem.idx import read_idx
from evoprune.problem.load import load

pytestmark = [
    pytest.mark.usefixtures("no_data_from_outside"),
    # the files made up here; a test of test_idx_folders.py expects it
    pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning"),
]


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
