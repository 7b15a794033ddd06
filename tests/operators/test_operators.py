"""What all operators have in common: exact counts, parents left alone, seeds."""

import copy
import pickle
import random
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.operators import LENET, NETWORKS, apply, few, layer_counts, masks, mate, mutate, random_mask, size_of

import evoprune as ep
from evoprune.operators import (
    CROSSOVERS,
    MUTATIONS,
    informed,
    move_density,
    swap,
)

# Options by registered name; what is registered without an entry here fails.
MUTATION_OPTIONS = {
    "swap": [{"n": 3}, {"fraction": 0.3}, {"n": 1000}, {"n": 3, "scope": "layer"}, {"fraction": 1.0, "scope": "layer"}],
    "density": [{"fraction": 0.3}, {"fraction": 1.0}],
    "informed": [
        {"fraction": fraction, "grow": grow, "scope": scope, "among": 1.5, "missing": "silent"}
        for fraction, grow, scope in product((0.1, 1.0), ("gradient", "random"), ("global", "layer"))
    ],
    "sparsity": [{"fraction": 0.2}, {"fraction": 1.0}],
}


CROSSOVER_OPTIONS = {
    "uniform": [{}, {"scope": "layer"}],
    "layer": [{}],
    "neuron": [{}, {"scope": "layer"}],
}

MUTATION_CASES = [(name, options) for name in MUTATIONS for options in MUTATION_OPTIONS[name]]

CROSSOVER_CASES = [(name, options) for name in CROSSOVERS for options in CROSSOVER_OPTIONS[name]]

for_each_mutation = pytest.mark.parametrize(("name", "options"), MUTATION_CASES, ids=str)

for_each_crossover = pytest.mark.parametrize(("name", "options"), CROSSOVER_CASES, ids=str)


def check_child(child, parent, snapshot):
    """A valid individual of the same network, and a parent that is what it was."""
    assert child.bits.dtype == np.bool_
    assert child.bits.shape == snapshot.bits.shape
    assert child.shapes == snapshot.shapes
    assert ep.Mask(child.bits, child.shapes) == child
    assert child.fitness.values == (1.5,)  # DEAP's algorithms delete it
    assert parent == snapshot
    assert parent.fitness.values == (1.5,)
    assert not np.shares_memory(child.bits, parent.bits)
    evidence, before = parent.evidence, snapshot.evidence
    assert (evidence is None) == (before is None)
    if evidence is not None:
        assert (evidence.mask, evidence.still.tolist(), evidence.grow.tolist()) == (
            before.mask,
            before.still.tolist(),
            before.grow.tolist(),
        )
    # what an evaluation said holds for as long as the mask is that one
    assert child == parent or child.evidence is None
    assert child != parent or (child.evidence is None) == (evidence is None)


# What holds for all of them


def test_the_registries_by_name():
    assert list(MUTATIONS) == ["swap", "density", "informed", "sparsity"]
    assert list(CROSSOVERS) == ["uniform", "layer", "neuron"]


@pytest.mark.sampled(7)
@for_each_mutation
@few
@given(parent=masks(), seed=st.integers(0, 99))
def test_mutations_keep_survivors_and_parents(name, options, parent, seed):
    snapshot = copy.deepcopy(parent)
    child = mutate(name, parent, options, seed)
    check_child(child, parent, snapshot)
    if name == "sparsity":
        assert 1 <= child.survivors <= len(child)
        assert child != parent or len(child) == 1
        assert abs(child.survivors - parent.survivors) <= max(1, round(options["fraction"] * parent.survivors))
    else:
        assert child.survivors == parent.survivors
    if options.get("scope") == "layer":
        assert layer_counts(child) == layer_counts(parent)


@pytest.mark.sampled(3)
@for_each_crossover
@few
@given(parents=masks(count=2), seed=st.integers(0, 99))
def test_crossovers_keep_survivors_and_parents_and_what_they_share(name, options, parents, seed):
    snapshots = copy.deepcopy(parents)
    children = mate(name, *parents, options, seed)
    for child, parent, snapshot in zip(children, parents, snapshots, strict=True):
        check_child(child, parent, snapshot)
        assert child.survivors == parent.survivors
        if options.get("scope") == "layer":
            assert layer_counts(child) == layer_counts(parent)
    (a, b), (mother, father) = children, parents
    assert not np.shares_memory(a.bits, b.bits)
    assert not np.shares_memory(a.bits, father.bits)
    assert np.array_equal(a.bits | b.bits, mother.bits | father.bits)
    assert np.array_equal(a.bits & b.bits, mother.bits & father.bits)


@pytest.mark.sampled(6)
@for_each_mutation
@given(parent=masks(), seed=st.integers(0, 99))
@few
def test_mutations_draw_from_rng_alone(name, options, parent, seed):
    states = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()
    assert mutate(name, parent, options, seed) == mutate(name, parent, options, seed)
    assert (random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()) == states


@for_each_crossover
@few
@given(parents=masks(count=2), seed=st.integers(0, 99))
def test_crossovers_draw_from_rng_alone(name, options, parents, seed):
    states = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()
    assert mate(name, *parents, options, seed) == mate(name, *parents, options, seed)
    assert (random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()) == states


@for_each_mutation
def test_another_seed_mutates_otherwise(name, options):
    parent = random_mask(LENET, 5324, np.random.default_rng(0))
    assert mutate(name, parent, options, 1) != mutate(name, parent, options, 2)
    assert mutate(name, parent, options, 1) != parent


@for_each_crossover
def test_another_seed_crosses_otherwise(name, options):
    rng = np.random.default_rng(0)
    shapes = {f"layer {i}": (20, 7) for i in range(20)}
    mother, father = (random_mask(shapes, 300, rng) for _ in range(2))
    (a, b), (c, _) = mate(name, mother, father, options, 1), mate(name, mother, father, options, 2)
    assert a != c
    assert all(child != parent for child, parent in product((a, b), (mother, father)))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("full", [True, False])
def test_nothing_to_swap_is_no_error(full, scope):
    for shapes in NETWORKS.values():
        mask = ep.Mask(np.full(size_of(shapes), full), shapes)
        assert apply(swap, mask, n=4, scope=scope) == (mask,)
        assert apply(informed, mask, fraction=0.5, scope=scope) == (mask,)
        assert apply(move_density, mask, fraction=0.5) == (mask,)
        for name, options in CROSSOVER_CASES:
            assert mate(name, mask, mask, options) == (mask, mask)


@for_each_crossover
def test_a_mask_may_mate_with_itself(name, options):
    mask = random_mask(LENET, 100, np.random.default_rng(0))
    before = mask.hash
    a, b = CROSSOVERS[name](mask, mask, rng=np.random.default_rng(0), **options)
    assert a is b is mask
    assert mask.hash == before


@for_each_crossover
def test_masks_of_different_networks_do_not_mate(name, options):
    a, b = (ep.Mask(np.ones(12, bool), {"w": shape}) for shape in ((3, 4), (4, 3)))
    with pytest.raises(ep.InputError, match="does not fit"):
        mate(name, a, b, options)
