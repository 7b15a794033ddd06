"""Small data sets in the formats of published ones."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

FILES = {
    "cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
    "cifar100": ["train", "test"],
}
FOLDERS = {
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar100", "binary"): "cifar-100-binary",
    ("cifar100", "python"): "cifar-100-python",
}
ARCHIVES = {key: f"{key[0][:5]}-{key[0][5:]}-{key[1]}.tar.gz" for key in FOLDERS}


def cifar_arrays(name: str, count: int = 12) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Images [count, 3072] and labels of each file, by its name without an ending."""
    classes = 10 if name == "cifar10" else 100
    rng = np.random.default_rng(classes)
    return {
        file: (rng.integers(0, 256, (count, 3072), np.uint8), [(7 * i + place) % classes for i in range(count)])
        for place, file in enumerate(FILES[name])
    }


def cifar_files(name: str, form: str, count: int = 12) -> dict[str, bytes]:
    """Contents of the files of a form by their names."""
    arrays = cifar_arrays(name, count)
    if form == "python":
        key = "labels" if name == "cifar10" else "fine_labels"
        return {file: python_2_pickle(images, labels, key) for file, (images, labels) in arrays.items()}
    return {f"{file}.bin": binary(name, images, labels) for file, (images, labels) in arrays.items()}


def binary(name: str, images: np.ndarray, labels: list[int]) -> bytes:
    columns = [np.array(labels, np.uint8)[:, None], images]
    if name == "cifar100":
        columns.insert(0, np.array([label // 5 for label in labels], np.uint8)[:, None])  # coarse labels
    return np.concatenate(columns, 1).tobytes()


def python_2_pickle(images: np.ndarray, labels: list[int], key: str) -> bytes:
    """A dictionary as Python 2's cPickle wrote it by protocol 2: with byte strings, and an array by numpy.core."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<I", len(text)) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06("
        b"K\x01" + integer(len(images)) + integer(images.shape[1]) + b"\x86q\x07"
        b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87q\x09Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + string(images.tobytes())
        + b"tb"
    )
    pairs = [
        string(b"batch_label") + string(b"one of a few"),
        string(key.encode()) + b"](" + b"".join(integer(label) for label in labels) + b"e",
        string(b"data") + array,
        string(b"filenames") + b"](" + b"".join(string(b"image_%d.png" % i) for i in range(len(labels))) + b"e",
    ]
    return b"\x80\x02}q\x00(" + b"".join(pairs) + b"u."


def python_3_pickle(images: np.ndarray, labels: list[int], key: str, protocol: int = 2) -> bytes:
    return pickle.dumps({key: labels, "data": images}, protocol=protocol)


def tar(files: dict[str, bytes]) -> bytes:
    """A .tar.gz archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_cifar(folder: Path) -> Path:
    """Writes both data sets in their binary formats, in the folders that the archives unpack to."""
    for name in FILES:
        write_files(folder / FOLDERS[name, "binary"], cifar_files(name, "binary"))
    return folder


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


EMNIST_CLASSES = {"balanced": 47, "bymerge": 47, "byclass": 62, "letters": 26, "digits": 10, "mnist": 10}


def emnist_files(selection: str, train: int = 60, test: int = 20) -> dict[str, bytes]:
    """Contents of the four files by their names; images are stored with rows and columns exchanged."""
    rng = np.random.default_rng(len(selection))
    found = {}
    for part, count in (("train", train), ("test", test)):
        labels = (np.arange(count) % EMNIST_CLASSES[selection] + (selection == "letters")).astype(np.uint8)
        for kind, array in (("images-idx3", rng.integers(0, 256, (count, 28, 28), np.uint8)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            found[f"emnist-{selection}-{part}-{kind}-ubyte"] = header + array.tobytes()
    return found


def write_emnist(folder: Path) -> Path:
    for selection in EMNIST_CLASSES:
        write_files(folder, emnist_files(selection))
    return folder
