"""The digits of scikit-learn."""

import numpy as np
import pytest
import torch

from evoprune.problem import load as load_module
from evoprune.problem.load import load

pytestmark = pytest.mark.usefixtures("no_data_from_outside")


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


def test_other_digits_than_scikit_learns_warn(monkeypatch):
    monkeypatch.setattr(load_module, "_DIGITS", "")
    with pytest.warns(UserWarning, match="scikit-learn's digits is not the published data set digits"):
        assert load("digits").digest is not None
