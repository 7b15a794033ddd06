"""Masks that lose survivors as sparsity rises, and let others grow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evoprune as ep
from evoprune.operators import Evidence
from evoprune.operators.mutation import shrink

SHAPES = {"a": (20, 10), "b": (10, 5)}


def individual(seed: int, sparsity: float = 0.5) -> tuple[ep.Mask, list[int], list[int]]:
    """Returns a mask whose evidence ranks all of its survivors and all removed weights, and the two rankings."""
    rng = np.random.default_rng(seed)
    mask = ep.random_mask(SHAPES, sparsity, rng)
    still, grow = rng.permutation(np.flatnonzero(mask.bits)), rng.permutation(np.flatnonzero(~mask.bits))
    mask.evidence = Evidence(mask.hash, still.astype(np.int32), grow.astype(np.int32))
    return mask, still.tolist(), grow.tolist()


def test_the_lowest_go_and_the_largest_gradients_come() -> None:
    mask, still, grow = individual(0)
    before = mask.bits.copy()
    shrink(mask, rng=np.random.default_rng(1), survivors=50, fraction=0.1)
    assert mask.survivors == mask.meant == 50
    assert set(np.flatnonzero(before & ~mask.bits)) == set(still[: 125 - 50 + 5])
    assert set(np.flatnonzero(mask.bits & ~before)) == set(grow[:5])
    assert mask.evidence is None


def test_without_a_fraction_none_grows() -> None:
    mask, still, _ = individual(0)
    before = mask.bits.copy()
    shrink(mask, rng=np.random.default_rng(1), survivors=50)
    assert set(np.flatnonzero(before & ~mask.bits)) == set(still[:75])
    assert not (mask.bits & ~before).any()


@given(st.integers(0, 99), st.integers(1, 120), st.floats(0, 1), st.sampled_from(["gradient", "random"]), st.floats(1, 3))
def test_the_number_is_exact(seed: int, survivors: int, fraction: float, grow: str, among: float) -> None:
    mask, _, _ = individual(seed)
    shrink(mask, rng=np.random.default_rng(seed), survivors=survivors, fraction=fraction, grow=grow, among=among)
    assert mask.survivors == survivors


def test_evidence_that_names_too_few_leaves_the_rest_to_chance() -> None:
    mask, still, grow = individual(0)
    mask.evidence = Evidence(mask.hash, np.array(still[:10], np.int32), np.array(grow[:10], np.int32))
    shrink(mask, rng=np.random.default_rng(1), survivors=50, fraction=0.5)
    assert mask.survivors == 50
    assert not mask.bits[still[:10]].any()
    assert not mask.bits[grow].any()  # nothing grows where the ranking does not reach


def test_an_unknown_growth_is_refused() -> None:
    mask, _, _ = individual(0)
    with pytest.raises(ep.InputError, match="grow"):
        shrink(mask, rng=np.random.default_rng(1), survivors=50, fraction=0.5, grow="much")
