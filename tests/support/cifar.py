"""CIFAR's files as tests write and compare them."""

import numpy as np
import pytest
import torch

from evoprune.errors import InputError
from evoprune.problem.load import load_raw
from support.datasets import ARCHIVES, FILES, FOLDERS, cifar_arrays, cifar_files, tar, write_files


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
