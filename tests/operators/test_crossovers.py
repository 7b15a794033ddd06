"""Crossovers: which differences each one exchanges."""

import copy

import numpy as np
import pytest
from support.operators import apply, mask_of, mate, random_mask, size_of

import evoprune as ep
from evoprune.operators import (
    by_layer,
    by_neuron,
    uniform,
)

# Crossovers


def test_uniform_by_hand():
    a, b = mask_of(0, 1, 2, shapes={"w": (8,)}), mask_of(2, 3, 4, shapes={"w": (8,)})
    found = {tuple(np.flatnonzero(mate("uniform", a, b, {}, seed)[0].bits)) for seed in range(100)}
    assert found == {tuple(sorted((2, i, j))) for i, j in ((0, 1), (0, 3), (0, 4), (1, 3), (1, 4), (3, 4))}


def test_uniform_gives_every_difference_alike():
    rng, draws = np.random.default_rng(0), 2000
    mother, father = (random_mask({"w": (40,)}, survivors, rng) for survivors in (20, 8))
    differ = mother.bits != father.bits
    held = np.zeros(40)
    for _ in range(draws):
        a, b = copy.deepcopy((mother, father))
        held += uniform(a, b, rng=rng)[0].bits
    expected = draws * (mother.bits & differ).sum() / differ.sum()
    assert np.abs(held[differ] - expected).max() < 5 * np.sqrt(draws / 4)
    assert held[~differ].tolist() == (draws * mother.bits[~differ]).tolist()


def parents_of_equal_groups(shapes, per_group, group_size, seed):
    """Two masks with so many survivors in every row, or every layer."""
    rng, groups = np.random.default_rng(seed), size_of(shapes) // group_size
    bits = [np.concatenate([rng.permutation(group_size) < per_group for _ in range(groups)]) for _ in range(2)]
    return [ep.Mask(each, shapes) for each in bits]


ROWS = {"fc": (6, 8), "conv": (5, 2, 2, 2)}  # rows of eight


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("seed", range(5))
def test_a_neurons_weights_go_together(seed, scope):
    mother, father = parents_of_equal_groups(ROWS, 3, 8, seed)
    a, b = apply(by_neuron, mother, father, scope=scope, seed=seed)
    rows = [mask.bits.reshape(-1, 8) for mask in (a, b, mother, father)]
    kept = (rows[0] == rows[2]).all(1) & (rows[1] == rows[3]).all(1)
    taken = (rows[0] == rows[3]).all(1) & (rows[1] == rows[2]).all(1)
    assert (kept | taken).all()  # all rows have as many, so nothing needs repair
    same = (rows[2] == rows[3]).all(1)
    assert (kept & ~same).any()
    assert (taken & ~same).any()


@pytest.mark.parametrize(("crossover", "group_size"), [(by_neuron, 8), (by_layer, 24)])
def test_each_neuron_or_layer_goes_by_itself(crossover, group_size):
    shapes = {"a": (3, 8), "b": (3, 2, 2, 2), "c": (3, 8)}
    mother, father = parents_of_equal_groups(shapes, group_size // 3, group_size, 0)
    groups = size_of(shapes) // group_size
    apart = np.zeros((groups, groups), bool)
    for seed in range(40):
        a, _ = apply(crossover, mother, father, seed=seed)
        taken = (a.bits != mother.bits).reshape(groups, group_size).any(1)
        apart |= taken[:, None] & ~taken
    assert apart.tolist() == (~np.eye(groups, dtype=bool)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_layers_go_together(seed):
    shapes = {f"layer {i}": (2, 4) for i in range(6)}
    mother, father = parents_of_equal_groups(shapes, 3, 8, seed)
    a, b = apply(by_layer, mother, father, seed=seed)
    swapped = 0
    for name in shapes:
        one, other, ones, others = (mask.layers[name].tolist() for mask in (a, b, mother, father))
        assert [one, other] in ([ones, others], [others, ones])
        swapped += [one, other] != [ones, others]
    assert 0 < swapped < 6


@pytest.mark.parametrize("seed", range(10))
def test_the_repair_is_as_small_as_can_be(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (10, 10), "b": (10, 10)}
    mother, father = (random_mask(shapes, 60, rng) for _ in range(2))
    (a, _) = apply(by_layer, mother, father, seed=seed)
    # one of the two layers was swapped: before the repair the child had a layer of each
    before = [
        np.concatenate([first.layers["a"].ravel(), last.layers["b"].ravel()])
        for first, last in ((mother, father), (father, mother))
    ]
    repaired = [(int(np.count_nonzero(bits != a.bits)), abs(int(bits.sum()) - 60)) for bits in before]
    assert any(changed == surplus for changed, surplus in repaired)


def test_one_layer_or_neuron_to_exchange_is_none():
    a, b = mask_of(0, 1, 5, shapes={"w": (2, 3)}), mask_of(0, 2, 5, shapes={"w": (2, 3)})
    assert apply(by_layer, a, b) == (a, b)
    assert apply(by_neuron, a, b) == (a, b)
