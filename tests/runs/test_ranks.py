import numpy as np
import pytest
from scipy import stats

from evoprune.runs.ranks import spearman


@pytest.mark.parametrize("size", [3, 4, 17, 64, 300])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_it_is_scipys_number_bit_for_bit_with_ties_and_without(size: int, decimals: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(5):
        x, y = np.round(rng.normal(size=(2, size)) * 2, decimals)
        x[0], y[0] = x[0] + 1, y[0] - 1  # not constant
        assert spearman(x.tolist(), y.tolist()) == stats.spearmanr(x, y).statistic


def test_equal_values_share_their_ranks() -> None:
    assert spearman([1.0, 2.0, 3.0], [0.1, 0.3, 0.2]) == pytest.approx(0.5)
    assert spearman([1.0, 1.0, 2.0], [5.0, 5.0, 9.0]) == pytest.approx(1.0)
