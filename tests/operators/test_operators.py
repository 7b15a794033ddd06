"""Mutation and crossover: what holds for every registered one, and what one computes by hand."""

import copy
import math
import pickle
import random
from itertools import product

import numpy as np
import pytest
import torch
from deap import algorithms, base, tools
from hypothesis import given, settings
from hypothesis import strategies as st

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.evidence import take_evidence
from evoprune.operators import (
    CROSSOVERS,
    MUTATIONS,
    Evidence,
    by_layer,
    by_neuron,
    informed,
    move_density,
    mutation,
    shrink,
    swap,
    uniform,
    vary_sparsity,
)
from evoprune.operators.positions import draw_removed
from evoprune.training.loop import train

NETWORKS = {
    "one layer": {"w": (3, 5)},
    "two layers": {"a": (4, 3), "b": (2, 4)},
    "convolution": {"conv": (4, 2, 3, 3), "fc": (3, 16), "bias-like": (3,)},
    "a layer of one weight": {"a": (1, 1), "b": (5, 4), "c": (1,)},
    "one weight": {"w": (1, 1)},
}
LENET = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}

few = settings(deadline=None, max_examples=40, database=None)

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


def size_of(shapes):
    return sum(map(math.prod, shapes.values()))


def mask_of(*kept, shapes):
    bits = np.zeros(size_of(shapes), bool)
    bits[list(kept)] = True
    return ep.Mask(bits, shapes)


def random_mask(shapes, survivors, rng):
    return mask_of(*rng.choice(size_of(shapes), survivors, replace=False), shapes=shapes)


def made_up_evidence(mask, rng):
    """Evidence that names everything, in a random order."""
    survivors, removed = np.flatnonzero(mask.bits), np.flatnonzero(~mask.bits)
    return Evidence(mask.hash, rng.permutation(survivors).astype(np.int32), rng.permutation(removed).astype(np.int32))


@st.composite
def masks(draw, count=1):
    """Masks for one network, from empty to full, evaluated, half of them with evidence; mates often of equal numbers."""
    shapes = draw(st.sampled_from(list(NETWORKS.values())))
    n = size_of(shapes)
    counts = st.sampled_from([0, 1, n // 10, n // 2, n - 1, n])
    first = draw(counts)
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    found = []
    for survivors in [first, *(draw(st.one_of(st.just(first), counts)) for _ in range(count - 1))]:
        mask = random_mask(shapes, survivors, rng)
        mask.fitness.values = (1.5,)
        if draw(st.booleans()):
            mask.evidence = made_up_evidence(mask, rng)
        found.append(mask)
    return found if count > 1 else found[0]


def bounds_of(mask):
    """The widest bounds of sparsity that leave a survivor."""
    return {"low": 0.0, "high": (len(mask) - 1) / len(mask)}


def apply(operator, *parents, seed=0, **options):
    """Calls an operator on clones of the parents, as DEAP's algorithms do; returns the clones."""
    clones = [copy.deepcopy(parent) for parent in parents]
    children = operator(*clones, rng=np.random.default_rng(seed), **options)
    assert type(children) is tuple
    assert len(children) == len(parents)
    assert all(child is clone for child, clone in zip(children, clones, strict=True))
    return children


def mutate(name, mask, options, seed=0):
    bounds = bounds_of(mask) if name == "sparsity" else {}
    return apply(MUTATIONS[name], mask, seed=seed, **options, **bounds)[0]


def mate(name, a, b, options, seed=0):
    return apply(CROSSOVERS[name], a, b, seed=seed, **options)


def layer_counts(mask):
    return [int(layer.sum()) for layer in mask.layers.values()]


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


# informed


def example():
    """Ten weights, of which those with even indices survive."""
    mask = mask_of(0, 2, 4, 6, 8, shapes={"a": (2, 3), "b": (4,)})
    mask.evidence = Evidence(mask.hash, np.array([6, 0, 2, 8], np.int32), np.array([1, 7, 3, 9], np.int32))
    return mask


def test_informed_by_hand():
    (child,) = apply(informed, example(), fraction=0.4)
    assert np.flatnonzero(child.bits).tolist() == [1, 2, 4, 7, 8]  # 6 and 0 out, 1 and 7 in
    (child,) = apply(informed, example(), fraction=0.01)
    assert np.flatnonzero(child.bits).tolist() == [0, 1, 2, 4, 8]


def test_informed_by_hand_within_layers():
    (child,) = apply(informed, example(), fraction=0.6, scope="layer")
    assert np.flatnonzero(child.bits).tolist() == [1, 3, 4, 7, 8]  # 6 for 7; 0 and 2 for 1 and 3
    mask = mask_of(0, 1, 2, 3, shapes={"a": (3,), "b": (3,)})  # the first layer is full
    mask.evidence = Evidence(mask.hash, np.array([0, 3]), np.array([5, 4]))
    (child,) = apply(informed, mask, fraction=0.5, scope="layer")
    assert np.flatnonzero(child.bits).tolist() == [0, 1, 2, 5]


@pytest.mark.parametrize("permuted", [mutation.PERMUTED, 0])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_informed_grows_at_random(scope, permuted, monkeypatch):
    monkeypatch.setattr(mutation, "PERMUTED", permuted)
    grown = set()
    for seed in range(40):
        (child,) = apply(informed, example(), fraction=0.4, grow="random", scope=scope, seed=seed)
        assert not child[6]
        assert not child[0]
        came = tuple(np.flatnonzero(child.bits & ~example().bits))
        assert len(came) == 2
        grown.add(came)
    within = {(i, j) for i in (1, 3, 5) for j in (7, 9)}
    assert grown == (within if scope == "layer" else within | {(1, 3), (1, 5), (3, 5), (7, 9)})


def test_informed_draws_among_more():
    children = [apply(informed, example(), fraction=0.2, among=2, seed=seed)[0] for seed in range(40)]
    assert {tuple(np.flatnonzero(child.bits)) for child in children} == {  # 6 or 0 for 1 or 7
        (0, 1, 2, 4, 8), (0, 2, 4, 7, 8), (1, 2, 4, 6, 8), (2, 4, 6, 7, 8)
    }  # fmt: skip
    children = [apply(informed, example(), fraction=0.2, among=9, scope="layer", seed=seed)[0] for seed in range(80)]
    out, into = ({tuple(np.flatnonzero(bits)) for bits in found} for found in (
        [example().bits & ~child.bits for child in children], [child.bits & ~example().bits for child in children]
    ))  # fmt: skip
    assert out == {(6,), (0,), (2,), (8,)}  # as far as the evidence goes: 4 is not in it
    assert into == {(1,), (3,), (7,), (9,)}
    assert all(layer_counts(child) == layer_counts(example()) for child in children)


def test_informed_without_chance_has_one_child():
    assert len({apply(informed, example(), fraction=0.4, seed=seed)[0].hash for seed in range(20)}) == 1


@pytest.mark.parametrize("among", [0.5, math.nan, math.inf])
def test_informed_refuses_to_draw_among_fewer(among):
    with pytest.raises(ep.InputError, match="among is"):
        apply(informed, example(), fraction=0.4, among=among)


def test_shrink_removes_what_the_evidence_names_first_and_then_at_random():
    rng = np.random.default_rng(0)
    mask = ep.Mask(np.arange(20) < 12, {"w": (20,)})
    mask.evidence = Evidence(mask.hash, np.array([7, 3, 11, 0]), np.array([15]))
    clone = copy.deepcopy(mask)
    assert np.flatnonzero(shrink(clone, rng=rng, survivors=9)[0].bits).tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert clone.evidence is None
    clone = copy.deepcopy(mask)
    shrink(clone, rng=rng, survivors=6)
    assert clone.survivors == 6
    assert not clone.bits[[7, 3, 11, 0]].any()
    chosen = set()
    for _ in range(50):
        clone = copy.deepcopy(mask)
        shrink(clone, rng=rng, survivors=10, among=1.5)
        chosen |= set(np.flatnonzero(mask.bits & ~clone.bits).tolist())
    assert chosen == {7, 3, 11}
    same = copy.deepcopy(mask)
    assert shrink(same, rng=rng, survivors=12)[0] == mask
    assert same.evidence is not None


def test_shrink_refuses_bad_values():
    mask = ep.Mask(np.ones(4, bool), {"w": (4,)})
    rng = np.random.default_rng(0)
    with pytest.raises(ep.InputError, match="no evidence"):
        shrink(mask, rng=rng, survivors=2)
    with pytest.raises(ep.InputError, match="survivors are 0"):
        shrink(mask, rng=rng, survivors=0)
    with pytest.raises(ep.InputError, match=r"among is 0\.5"):
        shrink(mask, rng=rng, survivors=2, among=0.5)
    assert shrink(mask, rng=rng, survivors=2, missing="random")[0].survivors == 2


def test_informed_uses_its_evidence_up():
    clone = copy.deepcopy(example())
    informed(clone, rng=np.random.default_rng(0), fraction=0.4)
    assert clone.evidence is None
    with pytest.raises(ep.InputError, match="no evidence"):
        informed(clone, rng=np.random.default_rng(0), fraction=0.4)


def test_informed_refuses_missing_evidence_or_swaps_at_random():
    never = mask_of(0, 2, 4, shapes={"a": (2, 3), "b": (4,)})
    stale = example()
    stale[0], stale[1] = False, True  # by hand, behind the operators' backs
    for mask in (never, stale):
        with pytest.raises(ep.InputError, match=r"take_evidence.*missing='random'"):
            apply(informed, mask, fraction=0.4)
        for scope in ("global", "layer"):
            (child,) = apply(informed, mask, fraction=0.4, scope=scope, missing="random", seed=3)
            assert (child,) == apply(swap, mask, fraction=0.4, scope=scope, seed=3)


def test_informed_refuses_too_little_evidence():
    with pytest.raises(ep.InputError, match="5 are to be swapped, but the evidence names 4; lower fraction"):
        apply(informed, example(), fraction=1.0)
    mask = example()
    mask.evidence = Evidence(mask.hash, mask.evidence.still, mask.evidence.grow[:1])
    with pytest.raises(ep.InputError, match="2 are to be swapped, but the evidence names 1"):
        apply(informed, mask, fraction=0.4)
    assert apply(informed, mask, fraction=0.4, grow="random")[0].survivors == 5


@pytest.mark.parametrize("bad", [{"grow": "gradients"}, {"missing": "ignore"}, {"scope": "row"}])
def test_informed_refuses_unknown_names(bad):
    with pytest.raises(ep.InputError, match="expected one of"):
        apply(informed, example(), fraction=0.4, **bad)


def test_evidence_travels_compactly():
    mask = random_mask(LENET, 5324, np.random.default_rng(0))
    alone = len(pickle.dumps(mask))
    full = made_up_evidence(mask, np.random.default_rng(0))
    mask.evidence = Evidence(mask.hash, full.still[:532], full.grow[:532])
    assert len(pickle.dumps(mask)) - alone < 5000
    travelled = pickle.loads(pickle.dumps(mask))
    assert travelled.evidence.mask == mask.hash
    assert travelled.evidence.still.tolist() == mask.evidence.still.tolist()
    assert apply(informed, travelled, fraction=0.1) == apply(informed, mask, fraction=0.1)


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


# DEAP's algorithms


class WithEvidence:
    """Evaluates a mask as the evaluator does, one at a time, and leaves the evidence beside it."""

    def __init__(self, problem):
        self.problem, self.taken = problem, 0

    def __call__(self, mask):
        population = ENGINES["module"].build(self.problem, [copy.deepcopy(mask)])
        train(population, self.problem, 1, seed=0)
        mask.evidence = take_evidence(self.problem, population, 0, seed=0)
        self.taken += 1
        return (float(population.survivor_values(0, population.weights).abs().sum()),)


ALGORITHMS = {
    "simple": (algorithms.eaSimple, (0.5, 0.7, 2)),
    "plus": (algorithms.eaMuPlusLambda, (4, 4, 0.4, 0.5, 2)),
    "comma": (algorithms.eaMuCommaLambda, (4, 4, 0.4, 0.5, 2)),
}
PAIRS = [("swap", "uniform"), ("density", "layer"), ("informed", "neuron"), ("sparsity", "uniform")]


@pytest.fixture(scope="module")
def tiny() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=ep.Recipe(epochs=1), seed=0)


def evolve(problem: ep.Problem, algorithm: str, mutation: str, crossover: str):
    toolbox: base.Toolbox = ep.make_toolbox(problem, sparsity=0.8, fitness_epochs=1)
    rng = np.random.default_rng(7)
    options = {"sparsity": {"low": 0.75, "high": 0.85}, "informed": {"missing": "random"}}.get(mutation, {})
    toolbox.register("mutate", MUTATIONS[mutation], fraction=0.1, rng=rng, **options)
    toolbox.register("mate", CROSSOVERS[crossover], rng=rng)
    if mutation == "informed":
        toolbox.register("map", map)
        toolbox.register("evaluate", WithEvidence(problem))
    random.seed(3)
    best = tools.HallOfFame(2)
    population = toolbox.population(n=4)
    first = copy.deepcopy(population)
    run, settings = ALGORITHMS[algorithm]
    records = {"stats": ep.make_statistics(), "halloffame": best, "verbose": False}
    population, logbook = run(population, toolbox, *settings, **records)
    return first, population, logbook, best, toolbox


def test_the_pairs_cover_the_registries():
    assert {mutation for mutation, _ in PAIRS} == set(MUTATIONS)
    assert {crossover for _, crossover in PAIRS} == set(CROSSOVERS)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize(("mutation", "crossover"), PAIRS)
def test_deaps_algorithms_run_with_them(tiny, algorithm, mutation, crossover):
    first, population, logbook, best, toolbox = evolve(tiny, algorithm, mutation, crossover)
    assert [record["gen"] for record in logbook] == [0, 1, 2]
    assert all(record["min"] <= record["mean"] <= record["max"] for record in logbook)
    assert len(population) == 4
    n = tiny.prunable_count
    low, high = (round(0.15 * n), round(0.25 * n)) if mutation == "sparsity" else (round(0.2 * n),) * 2
    assert all(low <= mask.survivors <= high for mask in [*population, *best])
    assert {mask.hash for mask in [*population, *best]} - {mask.hash for mask in first}  # something new was made
    assert best[0].fitness.values[0] == max(record["max"] for record in logbook)
    if mutation == "informed":
        assert toolbox.evaluate.func.taken == sum(record["nevals"] for record in logbook)
        assert all(mask.evidence.mask == mask.hash for mask in [*population, *best])
    else:
        # the fitness beside a mask is its own, not a parent's
        evaluator = ep.Evaluator(tiny, epochs=1, engine=toolbox.evaluate.func.brief.engine)
        assert evaluator(population[0])[0] == pytest.approx(population[0].fitness.values[0], rel=1e-5)


def test_a_run_is_repeated_by_its_seeds(tiny):
    runs = [evolve(tiny, "simple", "informed", "uniform") for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    assert runs[0][2] == runs[1][2]


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
