"""Masks: counts, layers, equality, pickling, and DEAP's operators."""

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from deap import base, tools
from hypothesis import given
from hypothesis import strategies as st
from support.masks import LENET, TWO, few, mask_of, masks, random_bits
from torch import nn

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks import mask as mask_module
from evoprune.masks.mask import Fitness, Mask
from evoprune.masks.overlap import diversity


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


# What a mask holds


def test_counts_by_hand():
    mask = mask_of(0, 5, 6)
    assert (mask.survivors, mask.density, mask.sparsity, len(mask)) == (3, 3 / 8, 5 / 8, 8)
    assert type(mask.survivors) is int


def test_layers_by_hand():
    layers = mask_of(0, 5, 6).layers
    assert {name: layer.tolist() for name, layer in layers.items()} == {
        "a.weight": [[True, False, False], [False, False, True]],
        "b.weight": [True, False],
    }


@few
@given(masks())
def test_layers_are_copies_in_c_order_and_make_the_mask_again(mask):
    layers = mask.layers
    assert {name: layer.shape for name, layer in layers.items()} == mask.shapes
    assert np.array_equal(np.concatenate([layer.ravel() for layer in layers.values()]), mask.bits)
    assert mask.survivors + round(mask.sparsity * len(mask)) == len(mask)
    assert Mask.from_layers(layers) == mask
    assert Mask.from_layers({name: torch.from_numpy(layer) for name, layer in layers.items()}) == mask
    before = mask.bits.copy()
    for layer in layers.values():
        layer[:] = ~layer
    assert np.array_equal(mask.bits, before)


def test_from_layers_takes_a_transposed_tensor_by_its_values():
    layer = torch.tensor([[True, False], [True, True], [False, False]]).T
    assert Mask.from_layers({"w": layer}).bits.tolist() == [True, True, False, False, True, False]


def test_the_bits_given_are_copied():
    bits = np.zeros(8, bool)
    mask = Mask(bits, TWO)
    bits[:] = True
    assert mask.survivors == 0


@pytest.mark.parametrize("bits", [np.zeros(7, bool), np.zeros((2, 4), bool), np.zeros((8, 1)), [0] * 7, torch.zeros(9)])
def test_bits_that_do_not_fit_are_refused(bits):
    with pytest.raises(InputError, match=r"expected bool \(8,\)"):
        Mask(bits, TWO)


# how other codes have them: torch.nn.utils.prune, SNIP, GraSP and SynFlow floats, some as parameters; OpenLTH integers
ZERO_OR_ONE = {
    "float32": lambda bits: bits.float(),
    "float64": lambda bits: bits.double(),
    "float16": lambda bits: bits.half(),
    "bfloat16": lambda bits: bits.bfloat16(),
    "int32": lambda bits: bits.int(),
    "int64": lambda bits: bits.long(),
    "uint8": lambda bits: bits.byte(),
    "bool": lambda bits: bits,
    "parameter": lambda bits: nn.Parameter(bits.float()),
    "sparse": lambda bits: bits.float().to_sparse(),
    "strided": lambda bits: torch.stack([bits, ~bits], -1)[..., 0].float(),
    "numpy": lambda bits: bits.numpy().astype(np.float32),
    "numpy float16": lambda bits: bits.numpy().astype(np.float16),
    "minus zero": lambda bits: torch.where(bits, 1.0, -0.0),
    "lists": lambda bits: bits.int().tolist(),
}


NEITHER = {
    "weights": torch.tensor([0.0, 0.3]),
    "nan": torch.tensor([1.0, math.nan]),
    "infinite": np.array([1.0, math.inf]),
    "two": torch.tensor([0, 2]),
    "minus one": np.array([-1, 1]),
    "complex": torch.ones(2, dtype=torch.complex64),
    "text": np.array(["1", "0"]),
    "objects": np.array([True, None]),
    "ragged": [[1, 0], [1]],
    "meta": torch.ones(2, device="meta"),
    "none": None,
}


@pytest.mark.parametrize("kind", ZERO_OR_ONE)
def test_zeros_and_ones_of_other_codes_are_taken(kind):
    bits = torch.tensor([[True, False, False], [False, True, True]])
    mask = Mask.from_layers({"w": ZERO_OR_ONE[kind](bits)})
    assert mask.bits.dtype == np.bool_
    assert mask == Mask(bits.flatten().numpy(), {"w": (2, 3)})
    assert Mask(ZERO_OR_ONE[kind](bits.flatten()), {"w": (2, 3)}) == mask


@pytest.mark.parametrize("kind", NEITHER)
def test_anything_else_is_refused_with_the_cure(kind):
    for make in (lambda: Mask.from_layers({"w": NEITHER[kind]}), lambda: Mask(NEITHER[kind], {"w": (2,)})):
        with pytest.raises(InputError, match=r"expected booleans, or 0 and 1 .*weights != 0"):
            make()


def test_no_layers_are_refused():
    with pytest.raises(InputError, match="no layers"):
        Mask.from_layers({})


# A sequence that DEAP's operators can work on


@few
@given(masks(), st.data())
def test_slices_are_copies(mask, data):
    index = data.draw(st.slices(len(mask)))
    before = mask.bits.copy()
    part = mask[index]
    assert part.tolist() == before[index].tolist()
    part[:] = ~part
    assert np.array_equal(mask.bits, before)


def test_items_are_read_and_set():
    mask = mask_of(1, 7)
    assert mask[1] is True
    assert mask[-1] is True
    assert mask[0] is False
    assert list(mask) == [mask[i] for i in range(len(mask))]
    mask[0] = True
    mask[6:] = [True, False]
    assert list(mask) == [True, True, False, False, False, False, True, False]
    assert mask.bits.dtype == bool
    with pytest.raises(IndexError):
        mask[8]


@few
@given(masks(count=2), st.integers(0, 999))
@pytest.mark.parametrize("mate", [tools.cxTwoPoint, tools.cxOnePoint, lambda a, b: tools.cxUniform(a, b, 0.5)])
def test_crossover_keeps_the_bits_of_every_position(mate, parents, seed):
    if len(parents[0]) < 2:
        return  # nowhere to cut
    a, b = copy.deepcopy(parents)
    with seeds.global_random(random.Random(seed)):
        mate(a, b)
    # on views, as of numpy arrays, one child would get its own bits back and the other's would be lost
    assert np.array_equal(a.bits & b.bits, parents[0].bits & parents[1].bits)
    assert np.array_equal(a.bits | b.bits, parents[0].bits | parents[1].bits)


def test_two_point_crossover_swaps():
    shapes = {"w": (100,)}
    a, b = mask_of(shapes=shapes), mask_of(*range(100), shapes=shapes)
    with seeds.global_random(random.Random(0)):
        tools.cxTwoPoint(a, b)
    assert 0 < a.survivors < 100
    assert a.survivors + b.survivors == 100


def test_flip_bit_flips():
    mask = mask_of(0, 3)
    with seeds.global_random(random.Random(0)):
        tools.mutFlipBit(mask, indpb=1.0)
    assert mask == mask_of(1, 2, 4, 5, 6, 7)


def test_clone_of_a_toolbox_is_independent():
    mask = mask_of(1)
    clone = base.Toolbox().clone(mask)
    clone[0] = True
    clone.fitness.values = (1.0,)
    assert mask == mask_of(1)
    assert not mask.fitness.valid


def test_the_hall_of_fame_takes_masks_and_tells_equal_ones():
    best, again, other = mask_of(1), mask_of(1), mask_of(2)
    for mask, value in ((best, 3.0), (again, 3.0), (other, 2.0)):
        mask.fitness.values = (value,)
    hall = tools.HallOfFame(5)
    hall.update([best, again, other])
    assert [m.fitness.values[0] for m in hall] == [3.0, 2.0]
    assert hall[0] == best
    assert hall[0] is not best


def test_larger_is_fitter():
    low, high, failed = mask_of(1), mask_of(2), mask_of(3)
    for mask, value in ((low, 1.0), (high, 2.0), (failed, -math.inf)):
        mask.fitness.values = (value,)
    assert tools.selBest([low, failed, high], 3) == [high, low, failed]
    assert Fitness.weights == (1.0,)


# Equality, hash, pickling, copies


def test_equality_is_a_bool():
    a, b, c = mask_of(1, 2), mask_of(1, 2), mask_of(1, 3)
    assert (a == b) is True
    assert (a == c) is False
    assert (a != c) is True
    assert (a == "mask") is False
    assert (a == a.bits.tolist()) is False
    assert c in [a, b, c]
    assert a != Mask(a.bits, {"a.weight": (3, 2), "b.weight": (2,)})
    assert a != Mask(a.bits, {"c.weight": (2, 3), "b.weight": (2,)})


def test_fitness_and_attributes_do_not_count_in_equality():
    a, b = mask_of(1), mask_of(1)
    a.fitness.values, a.note = (1.0,), "x"
    assert a == b
    assert a.hash == b.hash


def test_masks_are_unhashable():
    with pytest.raises(TypeError, match="unhashable"):
        {mask_of(1)}


@few
@given(masks(count=2))
def test_equal_masks_have_equal_hashes_and_others_other(pair):
    a, b = pair
    assert (a.hash == b.hash) == (a == b)
    assert copy.deepcopy(a).hash == pickled(a).hash == a.hash
    a[0] = not a[0]
    assert a.hash != pickled(b).hash or a == b


@few
@given(masks(count=2), st.integers(1, 9))
def test_masks_are_equal_if_all_parts_are(pair, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_module, "PART", part)
        assert (pair[0] == pair[1]) == np.array_equal(pair[0].bits, pair[1].bits)
        assert pair[0] == copy.deepcopy(pair[0])


def test_a_copy_of_a_group_keeps_what_its_masks_share():
    mask = mask_of(0, 3)
    mask.origin = [mask]
    first, second, origin = copy.deepcopy([mask, mask, mask.origin])
    assert first is second is origin[0] is first.origin[0]
    assert first is not mask


def test_the_order_of_layers_counts():
    # the same bits are other weights
    bits = np.array([True, False])
    a, b = Mask(bits, {"a": (1,), "b": (1,)}), Mask(bits, {"b": (1,), "a": (1,)})
    assert a.hash != b.hash
    assert a != b


def test_lengths_may_be_numpy_integers():
    a, b = Mask(np.ones(6, bool), {"w": (2, 3)}), Mask(np.ones(6, bool), {"w": tuple(np.array([2, 3]))})
    assert a == b
    assert a.hash == b.hash


@few
@given(masks(), st.one_of(st.none(), st.floats(allow_nan=False)))
def test_pickling_keeps_everything(mask, value):
    if value is not None:
        mask.fitness.values = (value,)
    mask.origin = {"parents": [1, 2]}
    for twin in (pickled(mask), copy.deepcopy(mask)):
        assert twin == mask
        assert twin.bits.dtype == bool
        assert twin.shapes == mask.shapes
        assert twin.fitness.valid == (value is not None)
        assert twin.fitness.values == mask.fitness.values
        assert isinstance(twin.fitness, Fitness)
        assert twin.origin == mask.origin
        twin[0] = not twin[0]  # writable, and not the same memory
        assert twin != mask
        del twin.fitness.values
        assert mask.fitness.valid == (value is not None)
        twin.origin["parents"].append(3)
        assert mask.origin == {"parents": [1, 2]}


@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_lenet_is_small(density, protocol):
    mask = Mask(random_bits(LENET, 0, density), LENET)
    mask.fitness.values = (1.5,)
    # protocol 2 writes bytes as escaped text; what DEAP's users send goes by the default protocol
    assert len(pickle.dumps(mask, protocol)) < (34_500 if protocol >= 3 else 70_000)
    assert len(pickle.dumps(mask)) < 34_500


# IoU and diversity


@few
@given(masks(count=2))
def test_iou_is_symmetric_and_between_zero_and_one(pair):
    a, b = pair
    assert 0 <= a.iou(b) <= 1
    assert a.iou(b) == b.iou(a)
    assert a.iou(a) == 1
    assert (a.iou(b) == 1) == (a == b)
    assert isinstance(a.iou(b), float)


def test_iou_by_hand():
    assert mask_of(0, 1, 2).iou(mask_of(2, 3)) == 1 / 4
    assert mask_of(0).iou(mask_of(1)) == 0
    assert mask_of().iou(mask_of()) == 1
    assert mask_of().iou(mask_of(1)) == 0


def test_iou_of_masks_for_different_networks_is_refused():
    with pytest.raises(InputError, match="does not fit"):
        mask_of(1).iou(Mask(np.zeros(8, bool), {"a.weight": (3, 2), "b.weight": (2,)}))


def test_diversity_by_hand():
    assert diversity([mask_of(0, 1), mask_of(0, 1)]) == 0
    assert diversity([mask_of(0, 1), mask_of(2, 3)]) == 1
    assert diversity([mask_of(0, 1), mask_of(1, 2), mask_of(1, 2)]) == pytest.approx(1 - (1 / 3 + 1 / 3 + 1) / 3)
    assert diversity([mask_of(), mask_of()]) == 0
    assert math.isnan(diversity([mask_of(0)]))
    assert math.isnan(diversity([]))


def test_repr_says_the_essential():
    assert repr(mask_of(1, 2)).startswith("Mask(2 of 8 weights, sparsity 0.7500")
