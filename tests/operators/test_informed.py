"""Informed mutation and shrinking, and the evidence that they use."""

import copy
import math
import pickle

import numpy as np
import pytest
from support.operators import LENET, apply, layer_counts, made_up_evidence, mask_of, random_mask

import evoprune as ep
from evoprune.operators import (
    Evidence,
    informed,
    mutation,
    shrink,
    swap,
)

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
