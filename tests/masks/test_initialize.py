import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.random import LAYER_DENSITIES, layer_survivors, random_mask, survivors_of

LENET = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}

shapes_of_networks = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4), min_size=1, max_size=5).map(
    lambda shapes: {f"layer{i}.weight": tuple(shape) for i, shape in enumerate(shapes)}
)


def size_of(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


@settings(deadline=None, max_examples=150, database=None)
@given(
    shapes=shapes_of_networks,
    sparsity=st.floats(0, 1, exclude_max=True),
    layer_densities=st.sampled_from(LAYER_DENSITIES),
    seed=st.integers(0, 2**32),
)
def test_survivors_are_exact(shapes, sparsity, layer_densities, seed):
    wanted = round((1 - sparsity) * size_of(shapes))
    assume(wanted > 0)
    counts = layer_survivors(shapes, sparsity, layer_densities, np.random.default_rng(seed))
    assert list(counts) == list(shapes)
    assert all(0 <= counts[name] <= math.prod(shape) for name, shape in shapes.items())
    assert sum(counts.values()) == wanted
    mask = random_mask(shapes, sparsity, np.random.default_rng(seed), layer_densities)
    assert mask.survivors == wanted
    assert mask.shapes == shapes
    # the same state of the generator gives the same counts, so the mask has those
    assert {name: int(layer.sum()) for name, layer in mask.layers.items()} == counts


@settings(deadline=None, max_examples=50, database=None)
@given(shapes=shapes_of_networks, sparsity=st.floats(0, 0.99))
def test_uniform_gives_every_layer_the_same_density(shapes, sparsity):
    assume(round((1 - sparsity) * size_of(shapes)) > 0)
    for name, count in layer_survivors(shapes, sparsity, "uniform").items():
        # rounding the total moves a layer by at most a half, rounding by largest remainder by less than one
        assert abs(count - (1 - sparsity) * math.prod(shapes[name])) < 1.5


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95, 0.98, 0.99, 0.999])
@pytest.mark.parametrize("layer_densities", LAYER_DENSITIES)
def test_lenet_keeps_exactly_what_the_sparsity_says(layer_densities, sparsity):
    mask = random_mask(LENET, sparsity, np.random.default_rng(0), layer_densities)
    assert mask.survivors == round((1 - sparsity) * 266_200)


def test_erk_by_hand():
    # survivors are proportional to the sums of the dimensions: 1084, 400, 110; 2662 / 1594 of each is 1810.3, 668.0, 183.7
    assert list(layer_survivors(LENET, 0.99, "erk").values()) == [1810, 668, 184]


def test_erk_cuts_densities_over_one_and_scales_the_rest_up():
    # of 53,240 the last layer's share would be 3,674 of its 1,000; what is left, 52,240, goes 1084 : 400
    assert list(layer_survivors(LENET, 0.8, "erk").values()) == [38159, 14081, 1000]


def test_erk_of_a_convolution_counts_all_dimensions():
    shapes = {"conv": (8, 4, 3, 3), "fc": (10, 8)}  # sums 18 and 18, so equal numbers
    assert list(layer_survivors(shapes, 1 - 72 / 368, "erk").values()) == [36, 36]


def test_the_default_is_erk():
    assert layer_survivors(LENET, 0.95) == layer_survivors(LENET, 0.95, "erk")
    assert random_mask(LENET, 0.95, np.random.default_rng(1)) == random_mask(LENET, 0.95, np.random.default_rng(1), "erk")


@pytest.mark.parametrize("layer_densities", LAYER_DENSITIES)
def test_sparsity_zero_keeps_all(layer_densities):
    counts = layer_survivors(LENET, 0.0, layer_densities, np.random.default_rng(0))
    assert list(counts.values()) == [235_200, 30_000, 1_000]


def test_varied_differs_by_draw_and_is_seeded():
    def draws():
        rng = np.random.default_rng(3)
        return [tuple(layer_survivors(LENET, 0.95, "varied", rng).values()) for _ in range(5)]

    assert len(set(draws())) == 5
    assert draws() == draws()


def test_varied_lies_around_erk():
    rng = np.random.default_rng(0)
    erk = np.array(list(layer_survivors(LENET, 0.99, "erk").values()))
    drawn = np.array([list(layer_survivors(LENET, 0.99, "varied", rng).values()) for _ in range(300)])
    relative = np.log(drawn[:, 1] / drawn[:, 0]) - math.log(erk[1] / erk[0])
    assert abs(relative.mean()) < 0.15
    assert relative.std() == pytest.approx(0.5 * math.sqrt(2), rel=0.2)  # the difference of two draws of deviation 0.5


@pytest.mark.parametrize("layer_densities", [name for name in LAYER_DENSITIES if name != "varied"])
def test_fixed_layer_densities_need_no_generator_and_differ_in_position_only(layer_densities):
    rng = np.random.default_rng(0)
    a, b = (random_mask(LENET, 0.95, rng, layer_densities) for _ in range(2))
    assert a != b
    assert layer_survivors(LENET, 0.95, layer_densities) == {name: layer.sum() for name, layer in a.layers.items()}
    assert [layer.sum() for layer in a.layers.values()] == [layer.sum() for layer in b.layers.values()]


@pytest.mark.parametrize("layer_densities", LAYER_DENSITIES)
def test_a_longer_population_begins_with_the_shorter(layer_densities):
    def population(k):
        rng = seeds.generator(0, "masks")
        return [random_mask(LENET, 0.98, rng, layer_densities) for _ in range(k)]

    long = population(6)
    assert long[:3] == population(3)
    assert all(a != b for i, a in enumerate(long) for b in long[:i])


def test_every_weight_has_the_same_chance():
    rng = np.random.default_rng(0)
    drawn = np.array([random_mask({"w": (4, 5)}, 0.7, rng).bits for _ in range(1000)])
    assert np.abs(drawn.mean(0) - 0.3).max() < 0.07  # five standard deviations


@pytest.mark.parametrize("sparsity", [1.0, -0.1, math.nan, math.inf, 2])
def test_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(InputError, match=r"sparsity is .* fraction of weights to remove"):
        survivors_of(sparsity, 100)
    with pytest.raises(InputError, match="sparsity is"):
        random_mask(LENET, sparsity, np.random.default_rng(0))


def test_sparsity_that_keeps_nothing_is_refused():
    assert survivors_of(0.99, 100) == 1
    with pytest.raises(InputError, match=r"keeps none of 100 weights; expected at most 0\.99"):
        survivors_of(0.996, 100)


def test_unknown_layer_densities_are_refused():
    with pytest.raises(InputError, match="Did you mean 'uniform'"):
        layer_survivors(LENET, 0.9, "unifrom")


def test_varied_without_a_generator_is_refused():
    with pytest.raises(InputError, match="rng"):
        layer_survivors(LENET, 0.9, "varied")
