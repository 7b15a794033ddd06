import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from deap import base, tools
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks import collapse
from evoprune.masks import mask as mask_module
from evoprune.masks.collapse import Collapse
from evoprune.masks.mask import Fitness, Mask
from evoprune.masks.overlap import diversity
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem

LENET = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}
TWO = {"a.weight": (2, 3), "b.weight": (2,)}

few = settings(deadline=None, max_examples=60, database=None)

shapes_of_networks = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda shapes: {f"layer{i}.weight": tuple(shape) for i, shape in enumerate(shapes)}
)


def random_bits(shapes, seed, density):
    return np.random.default_rng(seed).random(sum(map(math.prod, shapes.values()))) < density


@st.composite
def masks(draw, count=1):
    """Masks for one network, from empty to full."""
    shapes = draw(shapes_of_networks)
    found = []
    for _ in range(count):
        density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
        found.append(Mask(random_bits(shapes, draw(st.integers(0, 999)), density), shapes))
    return found if count > 1 else found[0]


def mask_of(*kept, shapes=TWO):
    bits = np.zeros(sum(map(math.prod, shapes.values())), bool)
    bits[list(kept)] = True
    return Mask(bits, shapes)


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


# The file


@few
@given(mask=masks())
def test_a_saved_mask_is_loaded(mask, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mask.npz"
    mask.save(path)
    loaded = Mask.load(str(path))
    assert loaded == mask
    assert list(loaded.shapes.items()) == list(mask.shapes.items())
    assert loaded.hash == mask.hash


def test_the_file_is_packed_bits_and_shapes_by_name(tmp_path):
    mask = Mask(random_bits(LENET, 0, 0.05), LENET)
    mask.save(tmp_path / "mask")  # the name is kept as it is given
    assert [path.name for path in tmp_path.iterdir()] == ["mask"]
    with np.load(tmp_path / "mask", allow_pickle=False) as file:
        assert set(file.files) == {f"{name}/{what}" for name in LENET for what in ("bits", "shape")}
        for name, layer in mask.layers.items():
            assert file[f"{name}/shape"].tolist() == list(layer.shape)
            assert file[f"{name}/bits"].dtype == np.uint8
            assert np.array_equal(file[f"{name}/bits"], np.packbits(layer))
            unpacked = np.unpackbits(file[f"{name}/bits"], count=layer.size).reshape(layer.shape)
            assert np.array_equal(unpacked, layer)


def test_the_same_mask_makes_the_same_file(tmp_path):
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    mask_of(1, 2).save(a)
    mask_of(1, 2).save(b)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not an archive", pickle.dumps({"w/bits": 1})])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "mask.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mask\.npz"):
        Mask.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nosuch.npz", tmp_path):
        with pytest.raises(InputError, match="cannot read a mask from"):
            Mask.load(path)


@pytest.mark.parametrize("keep", [30, 300, -5])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "mask.npz"
    mask_of(1).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"mask\.npz"):
        Mask.load(path)


def test_a_plain_array_is_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(InputError, match=r"array\.npy"):
        Mask.load(tmp_path / "array.npy")


BITS, SHAPE = np.zeros(2, np.uint8), np.array([3, 4])


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros(3)},
        {"w/bits": BITS},
        {"w/bits": BITS.astype(float), "w/shape": SHAPE},
        {"w/bits": BITS, "w/shape": np.array(12)},
        {"w/bits": BITS, "w/shape": np.array([-3, -4])},
        {"w/bits": BITS[:1], "w/shape": SHAPE},
        {"w/bits": np.zeros(3, np.uint8), "w/shape": SHAPE},
        {"w/bits": np.array([None, None]), "w/shape": SHAPE},
    ],
    ids=["other", "no shape", "floats", "no lengths", "negative", "too few bits", "too many bits", "pickled"],
)
def test_an_npz_that_is_no_mask_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "mask.npz", **arrays)
    with pytest.raises(InputError, match=r"mask\.npz"):
        Mask.load(tmp_path / "mask.npz")


# Masks and networks


X, Y = torch.linspace(-1, 1, 40).reshape(20, 2), torch.arange(20) % 2


def problem_of(*layers, x=X, **options):
    network = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
    return Problem(network, Data(train=(x, Y), validation=(x, Y), test=(x, Y)), **options)


@pytest.fixture(scope="module")
def small():
    return problem_of(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def test_a_mask_that_fits_its_network_is_loaded(tmp_path, small):
    mask = mask_of(1, 7, shapes=small.shapes)
    mask.save(tmp_path / "mask.npz")
    assert Mask.load(tmp_path / "mask.npz", small) == mask
    assert mask.shapes == {"0.weight": (3, 2), "2.weight": (2, 3)}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"0.weight": (2, 3), "2.weight": (2, 3)}, r"0\.weight is \(2, 3\) in the mask, \(3, 2\) in the network"),
        ({"0.weight": (3, 2)}, r"2\.weight is absent in the mask, \(2, 3\) in the network"),
        ({"0.weight": (3, 2), "2.weight": (2, 3), "x": (1,)}, r"x is \(1,\) in the mask, absent or excluded in the network"),
        ({"2.weight": (2, 3), "0.weight": (3, 2)}, r"orders its layers \['2\.weight', '0\.weight'\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, small, shapes, said):
    mask = mask_of(0, shapes=shapes)
    mask.save(tmp_path / "mask.npz")
    for use in (lambda: Mask.load(tmp_path / "mask.npz", small), lambda: mask.collapse(small)):
        with pytest.raises(InputError, match=said):
            use()


def cut(problem, **layers):
    """The full mask of a problem, with layers (by position in the network) replaced."""
    shapes = {name: tuple(shape) for name, shape in problem.shapes.items()}
    whole = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    for name, layer in layers.items():
        whole[name] = np.array(layer, bool).reshape(shapes[name])
    return Mask.from_layers(whole)


def test_a_full_mask_cuts_nothing_off(small):
    report = cut(small).collapse(small)
    assert report == Collapse((), ())
    assert not report
    assert str(report) == ""


def test_an_empty_layer_is_named_and_cuts_all_outputs_off(small):
    report = cut(small, **{"0.weight": [0] * 6}).collapse(small)
    assert report == Collapse(("0.weight",), (0, 1))
    assert report
    assert str(report) == "no survivors in 0.weight; no path to 2 outputs (0, 1)"


# output 0 hangs on hidden unit 1, and no input reaches that: it passes on its bias alone, which counts as no path
ONE_CUT = {"first": [[1, 0], [0, 0], [0, 1]], "last": [[0, 1, 0], [1, 0, 0]]}


def test_an_output_whose_only_path_is_cut_is_named(small):
    with torch.no_grad():
        assert any(float(bias) != 0 for bias in small.network()[0].bias)
    report = cut(small, **{"0.weight": ONE_CUT["first"], "2.weight": ONE_CUT["last"]}).collapse(small)
    assert report == Collapse((), (0,))


def test_an_output_without_weights_is_named(small):
    assert cut(small, **{"2.weight": [[1, 1, 1], [0, 0, 0]]}).collapse(small) == Collapse((), (1,))


@pytest.fixture(scope="module")
def deep():
    return problem_of(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


@few
@given(st.integers(0, 9999), st.sampled_from([0.1, 0.25, 0.5, 0.8]))
def test_outputs_reached_are_those_of_the_graph(deep, seed, density):
    mask = Mask(random_bits(deep.shapes, seed, density), deep.shapes)
    reached = np.ones(2, bool)
    for layer in mask.layers.values():
        reached = (layer & reached).any(1)
    report = mask.collapse(deep)
    assert report.unreached_outputs == tuple(np.flatnonzero(~reached))
    assert report.empty_layers == tuple(name for name, layer in mask.layers.items() if layer.sum() == 0)


BETWEEN = [
    nn.BatchNorm1d(3),
    nn.LayerNorm(3),
    nn.GroupNorm(1, 3),
    nn.ReLU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.PReLU(),
    nn.Softplus(),
    nn.Softmax(1),
    nn.LogSigmoid(),
    nn.Dropout(0.9),
    nn.Identity(),
    nn.Sequential(nn.LayerNorm(3), nn.Tanh()),
    nn.BatchNorm1d(3, track_running_stats=False),
]


@pytest.mark.parametrize("layer", BETWEEN, ids=str)
def test_layers_between_pass_on_what_reaches_them(layer):
    problem = problem_of(nn.Linear(2, 3), layer, nn.Linear(3, 2))
    assert not cut(problem).collapse(problem)
    report = cut(problem, **{"0.weight": ONE_CUT["first"], "2.weight": ONE_CUT["last"]}).collapse(problem)
    assert report == Collapse((), (0,))


class Functional(nn.Module):
    """Two layers with functions, not modules, between and behind them."""

    def __init__(self, between, behind):
        super().__init__()
        self.first, self.last, self.between, self.behind = nn.Linear(2, 3), nn.Linear(3, 2), between, behind

    def forward(self, x):
        return self.behind(self.last(self.between(self.first(x))))


@pytest.mark.parametrize(
    ("between", "behind"),
    [
        (F.relu, lambda x: x),
        (F.gelu, lambda x: x),
        (torch.tanh, torch.tanh),
        (F.relu, torch.sigmoid),
        (F.softplus, lambda x: x),
        (torch.relu, lambda x: -x),
        (lambda x: F.relu(-x), lambda x: x),
    ],
    ids=["relu", "gelu", "tanh", "sigmoid", "softplus", "minus", "relu of minus"],
)
def test_functions_pass_on_what_reaches_them(between, behind):
    problem = problem_of(Functional(between, behind))
    assert not cut(problem).collapse(problem)
    report = cut(problem, **{"first.weight": ONE_CUT["first"], "last.weight": ONE_CUT["last"]}).collapse(problem)
    assert report == Collapse((), (0,))


@pytest.mark.parametrize(
    ("between", "behind"),
    [(F.relu, lambda x: F.log_softmax(x, 1)), (lambda x: F.layer_norm(x, (3,)), lambda x: x)],
    ids=["log_softmax", "layer_norm"],
)
def test_functions_that_mix_units_make_no_collapse(between, behind):
    problem = problem_of(Functional(between, behind))
    assert not cut(problem).collapse(problem)
    assert cut(problem, **{"first.weight": [0] * 6}).collapse(problem) == Collapse(("first.weight",), (0, 1))


class Chain(nn.Module):
    """Deep, with functional ReLU: a path of mixed signs would die on the way."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


def test_a_single_path_through_a_deep_network_counts():
    problem = problem_of(Chain())
    straight = {name: [[1, 0], [0, 1]] for name in problem.shapes}
    assert cut(problem, **straight).collapse(problem) == Collapse((), ())
    assert cut(problem, **straight | {"layers.4.weight": [[1, 0], [0, 0]]}).collapse(problem) == Collapse((), (1,))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(x + torch.relu(self.inner(x)))


def test_a_path_round_an_empty_layer_counts():
    problem = problem_of(Residual())
    assert cut(problem, **{"inner.weight": [0] * 4}).collapse(problem) == Collapse(("inner.weight",), ())
    report = cut(problem, **{"inner.weight": [0] * 4, "out.weight": [[0, 0], [0, 1]]}).collapse(problem)
    assert report == Collapse(("inner.weight",), (0,))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)], ids=str)
def test_convolution_pooling_and_flattening(pool):
    images = torch.linspace(-1, 1, 320).reshape(20, 1, 4, 4)
    problem = problem_of(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 2), x=images
    )
    assert not cut(problem).collapse(problem)
    # channel 1 is cut; output 1 sees only its four pixels
    kernels = [np.ones((1, 3, 3)), np.zeros((1, 3, 3))]
    report = cut(problem, **{"0.weight": kernels, "5.weight": [[1] * 8, [0] * 4 + [1] * 4]}).collapse(problem)
    assert report == Collapse((), (1,))


def test_an_excluded_layer_is_dense():
    problem = problem_of(nn.Linear(2, 3), nn.Linear(3, 2), exclude=["1"])
    one = [[0, 0], [0, 1], [0, 0]]
    assert cut(problem, **{"0.weight": one}).collapse(problem) == Collapse((), ())
    assert cut(problem, **{"0.weight": [0] * 6}).collapse(problem) == Collapse(("0.weight",), (0, 1))


def test_outputs_are_counted_flattened():
    problem = problem_of(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)), loss=lambda out, y: out.square().mean())
    assert cut(problem, **{"0.weight": [[1, 1], [1, 1], [0, 0], [0, 1]]}).collapse(problem) == Collapse((), (2,))


def test_indices_as_inputs():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(5, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.table(x).flatten(1))

    problem = problem_of(Embedded(), x=torch.arange(40).reshape(20, 2) % 5, exclude=["table"])
    assert list(problem.shapes) == ["out.weight"]
    assert cut(problem, **{"out.weight": [[1, 0, 0, 0], [0, 0, 0, 0]]}).collapse(problem) == Collapse((), (1,))


def test_the_sign_and_size_of_w0_do_not_matter(small):
    # a path counts even where the weights of W0 on it cancel or vanish
    network = small.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    problem = problem_of(network)
    assert not cut(problem).collapse(problem)


def test_collapse_leaves_the_problem_and_the_mask_alone(small):
    mask = cut(small)
    before, state = mask.hash, copy.deepcopy(small.network().state_dict())
    mask.collapse(small)
    assert mask.hash == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.network().state_dict().items())


def test_a_long_report_is_shortened():
    report = Collapse(("a", "b"), tuple(range(12)))
    assert str(report) == "no survivors in a, b; no path to 12 outputs (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)"


def test_repr_says_the_essential():
    assert repr(mask_of(1, 2)).startswith("Mask(2 of 8 weights, sparsity 0.7500")


def test_collapse_draws_weights_once_for_a_problem_unless_they_take_much_memory(small, monkeypatch):
    problem = pickle.loads(pickle.dumps(small))
    with monkeypatch.context() as patch:
        patch.setattr(collapse, "MOST_KEPT", 0)
        assert collapse.draws_of(problem) is not collapse.draws_of(problem)
        rare = [str(Mask(bits, problem.shapes).collapse(problem)) for bits in np.eye(12, dtype=bool)]
    assert collapse.draws_of(problem) is collapse.draws_of(problem)
    assert [str(Mask(bits, problem.shapes).collapse(problem)) for bits in np.eye(12, dtype=bool)] == rare


def test_a_network_that_changes_its_inputs_in_place_reports_the_same_each_time():
    network = nn.Sequential(nn.Threshold(0.0, 0.0, inplace=True), nn.Linear(3, 2))
    problem = Problem(network, Data(train=(torch.randn(40, 3), torch.arange(40) % 2)))
    masks = [cut(problem, **{"1.weight": [[1, 1, 0], [0, 0, i]]}) for i in (0, 1, 0, 1)]
    first, second, *again = [mask.collapse(problem) for mask in masks]
    assert (first, second) == (Collapse((), (1,)), Collapse((), ()))
    assert again == [first, second]
