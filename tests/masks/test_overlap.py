"""Overlap and diversity of populations, against the overlap of each pair."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evoprune as ep
from evoprune.masks import overlap
from evoprune.masks.overlap import chance_diversity, diversity, expected_iou, layer_counts, pairs_of

SHAPES = {"a": (13, 11), "b": (5, 3), "empty": (0, 4)}
SIZES = [143, 15, 0]

few = settings(deadline=None, max_examples=60, database=None)


@st.composite
def populations(draw: st.DrawFn) -> list[ep.Mask]:
    """Masks from empty to full, some of them equal."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    densities = draw(st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), min_size=2, max_size=9))
    masks = [ep.Mask(rng.random(sum(SIZES)) < density, SHAPES) for density in densities]
    return [*masks, *masks[: draw(st.integers(0, 2))]]


def random_masks(count: int) -> list[ep.Mask]:
    rng = np.random.default_rng(0)
    return [ep.random_mask({"a": (40, 30)}, 0.7, rng) for _ in range(count)]


def mean_of_pairs(masks: list[ep.Mask]) -> float:
    return float(np.mean([a.iou(b) for a, b in combinations(masks, 2)]))


@few
@given(populations())
def test_diversity_is_exactly_that_of_all_pairs(population: list[ep.Mask]) -> None:
    assert diversity(population) == 1 - mean_of_pairs(population)


@few
@given(populations())
def test_chance_diversity_is_that_of_all_pairs(population: list[ep.Mask]) -> None:
    expected = [expected_iou(a, b, SIZES) for a, b in combinations(layer_counts(population).tolist(), 2)]
    mean = np.mean([1.0 if np.isnan(iou) else iou for iou in expected])
    assert chance_diversity(population) == pytest.approx(1 - mean, abs=1e-15)


@pytest.mark.parametrize("count", [2, 3, overlap.ALL_PAIRS, overlap.ALL_PAIRS + 1])
def test_few_masks_are_all_compared(count: int) -> None:
    first, second = pairs_of(count)
    pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(pairs) == len(first) == count * (count - 1) // 2


@pytest.mark.parametrize("count", [300, 999, 5000])
def test_pairs_grow_with_many_masks_and_not_with_their_square(count: int) -> None:
    first, second = pairs_of(count)
    pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(pairs) == len(first) == count * overlap.ALL_PAIRS // 2
    assert set(np.bincount([*first, *second])) == {overlap.ALL_PAIRS}  # every mask counts alike
    assert (first != second).all()


def test_a_part_of_the_pairs_tells_the_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = random_masks(60)
    masks += masks[:20]
    exact, chance = diversity(masks), chance_diversity(masks)
    monkeypatch.setattr(overlap, "ALL_PAIRS", 16)
    assert diversity(masks) == pytest.approx(exact, abs=0.01)
    assert diversity(masks) != exact
    assert chance_diversity(masks) == pytest.approx(chance, abs=1e-12)  # all have as many survivors
