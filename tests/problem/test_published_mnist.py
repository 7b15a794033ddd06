"""MNIST itself."""

import os
from pathlib import Path

import numpy as np
import pytest
from support.idx import IDX_NAMES

from evoprune.errors import InputError
from evoprune.problem import data as datasets
from evoprune.problem.examples import inputs_of
from evoprune.problem.idx import find_idx_folder
from evoprune.problem.load import DATA, load_raw

pytestmark = pytest.mark.usefixtures("no_data_from_outside")


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
