"""Pairs of inputs and targets, and how they are split."""

import numpy as np
import pytest
import torch

from evoprune.errors import InputError
from evoprune.problem.data import Data

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
