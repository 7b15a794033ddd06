"""Mutations: what each one swaps, and how often."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operators import apply, few, layer_counts, mask_of, masks, mutate, random_mask

import evoprune as ep
from evoprune.operators import (
    MUTATIONS,
    move_density,
    swap,
    vary_sparsity,
)
from evoprune.operators.positions import draw_removed

# swap


@few
@given(parent=masks(), amount=st.integers(1, 30), scope=st.sampled_from(["global", "layer"]), seed=st.integers(0, 99))
def test_swap_swaps_as_many_as_asked_or_as_can_be(parent, amount, scope, seed):
    (child,) = apply(swap, parent, n=amount, scope=scope, seed=seed)
    parts = parent.layers.values() if scope == "layer" else [parent.bits]
    possible = sum(min(int(part.sum()), int((~part).sum())) for part in parts)
    assert np.count_nonzero(parent.bits & ~child.bits) == min(amount, possible)
    assert np.count_nonzero(child.bits & ~parent.bits) == min(amount, possible)


@pytest.mark.parametrize(("fraction", "swapped"), [(0.001, 1), (0.1, 3), (0.5, 15), (1.0, 30)])
def test_swap_takes_a_fraction_of_the_survivors(fraction, swapped):
    parent = random_mask({"w": (10, 10)}, 30, np.random.default_rng(0))
    (child,) = apply(swap, parent, fraction=fraction)
    assert np.count_nonzero(parent.bits & ~child.bits) == swapped


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_swap_chooses_all_alike(scope):
    shapes = {"a": (2, 5), "b": (10,)}
    parent = mask_of(0, 1, 10, 11, shapes=shapes)
    rng, draws = np.random.default_rng(0), 2000
    changed = np.zeros(20)
    for _ in range(draws):
        child = copy.deepcopy(parent)
        swap(child, rng=rng, n=1, scope=scope)
        changed += child.bits != parent.bits
    expected = np.where(parent.bits, draws / 4, draws / 16)
    assert np.abs(changed - expected).max() < 5 * np.sqrt(expected.max())


@pytest.mark.parametrize("bad", [{}, {"n": 1, "fraction": 0.5}, {"n": 0}, {"n": 1.5}, {"n": True}, {"n": 1, "scope": "all"}])
def test_swap_refuses_what_it_cannot_serve(bad):
    with pytest.raises(ep.InputError, match="expected"):
        apply(swap, mask_of(0, 2, shapes={"w": (4,)}), **bad)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan])
@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_fraction_out_of_range_is_refused(name, fraction):
    for mask in (mask_of(0, 2, shapes={"a": (3,), "b": (2,)}), mask_of(0, shapes={"w": (4,)})):
        with pytest.raises(ep.InputError, match="fraction is"):
            mutate(name, mask, {"fraction": fraction})


# move_density


@few
@given(parent=masks(), fraction=st.sampled_from([0.01, 0.3, 1.0]), seed=st.integers(0, 99))
def test_density_moves_between_two_layers_and_empties_none(parent, fraction, seed):
    (child,) = apply(move_density, parent, fraction=fraction, seed=seed)
    before, after = np.array(layer_counts(parent)), np.array(layer_counts(child))
    assert all(now >= 1 for was, now in zip(before, after, strict=True) if was)
    # out of one layer only, into one other only
    lost = [bool((was & ~now).any()) for was, now in zip(parent.layers.values(), child.layers.values(), strict=True)]
    gained = [bool((now & ~was).any()) for was, now in zip(parent.layers.values(), child.layers.values(), strict=True)]
    sizes = np.array([math.prod(shape) for shape in parent.shapes.values()])
    can = any(before[i] > 1 and before[j] < sizes[j] for i in range(len(sizes)) for j in range(len(sizes)) if i != j)
    assert (sum(lost), sum(gained)) == (can, can)
    assert not any(out and into for out, into in zip(lost, gained, strict=True))
    if can:
        i, j = lost.index(True), gained.index(True)
        wanted = max(1, round(fraction * min(before[i], before[j])))
        assert before[i] - after[i] == after[j] - before[j] == min(wanted, before[i] - 1, sizes[j] - before[j])


def test_density_moves_in_every_direction():
    shapes = dict.fromkeys("abc", (10,))
    parent = mask_of(*range(4), *range(10, 14), *range(20, 24), shapes=shapes)
    children = [layer_counts(apply(move_density, parent, fraction=0.5, seed=seed)[0]) for seed in range(60)]
    assert sorted(set(map(tuple, children))) == [(2, 4, 6), (2, 6, 4), (4, 2, 6), (4, 6, 2), (6, 2, 4), (6, 4, 2)]


def test_density_does_not_leave_a_layer_with_one_survivor():
    parent = mask_of(0, 4, 5, 6, shapes={"a": (4,), "b": (4,)})
    assert {tuple(layer_counts(apply(move_density, parent, fraction=0.5, seed=seed)[0])) for seed in range(20)} == {(2, 2)}


# vary_sparsity


@few
@given(parent=masks(), ends=st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)), seed=st.integers(0, 99))
def test_sparsity_stays_within_bounds(parent, ends, seed):
    low, high, n = *sorted(ends), len(parent)
    least, most = round((1 - high) * n), round((1 - low) * n)
    if least == 0:
        with pytest.raises(ep.InputError, match="keeps none"):
            apply(vary_sparsity, parent, low=low, high=high, fraction=0.5)
        return
    (child,) = apply(vary_sparsity, parent, low=low, high=high, fraction=0.5, seed=seed)
    assert least <= child.survivors <= most
    added, removed = (child.bits & ~parent.bits).any(), (parent.bits & ~child.bits).any()
    assert not (added and removed)
    assert (added or removed) == (not least == most == parent.survivors)


def test_every_number_within_reach_is_drawn():
    parent = random_mask({"w": (10, 10)}, 50, np.random.default_rng(0))
    counts = {apply(vary_sparsity, parent, low=0.48, high=0.9, fraction=0.1, seed=seed)[0].survivors for seed in range(100)}
    assert counts == {45, 46, 47, 48, 49, 51, 52}


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ep.InputError, match="lower bound first"):
        apply(vary_sparsity, random_mask({"w": (10, 10)}, 50, np.random.default_rng(0)), low=0.9, high=0.5, fraction=0.1)


@few
@given(st.integers(0, 999), st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]), st.floats(0, 1), st.integers(1, 300))
def test_removed_weights_are_drawn_as_from_their_list(seed, density, part, n):
    """The same weights, and the same draws are left."""
    bits = np.random.default_rng(seed).random(n + 40) < density
    mask, block = ep.Mask(bits, {"w": (n + 40,)}), slice(17, 17 + n)
    removed = block.start + np.flatnonzero(~bits[block])
    count = round(part * len(removed))
    mine, listed = np.random.default_rng(seed), np.random.default_rng(seed)
    assert np.array_equal(draw_removed(mask, block, count, mine), listed.choice(removed, count, replace=False))
    assert mine.bit_generator.state == listed.bit_generator.state


def test_many_removed_weights_are_drawn_as_from_their_list():
    mask = ep.random_mask({"w": (300, 400)}, 0.99, np.random.default_rng(0))
    removed = np.flatnonzero(~mask.bits)
    for count in (3, 500, 40_000):  # numpy has several ways
        mine, listed = np.random.default_rng(count), np.random.default_rng(count)
        drawn = draw_removed(mask, slice(0, len(mask)), count, mine)
        assert np.array_equal(drawn, listed.choice(removed, count, replace=False))
        assert mine.bit_generator.state == listed.bit_generator.state
