import random

import numpy as np
import pytest

from evoprune import seeds
from evoprune.errors import InputError


@pytest.mark.parametrize(("position", "name"), enumerate(seeds.STREAMS))
def test_a_stream_is_the_child_at_its_position(position, name):
    child = np.random.SeedSequence(7).spawn(len(seeds.STREAMS))[position]
    assert np.array_equal(seeds.sequence(7, name).generate_state(4), child.generate_state(4))
    assert np.array_equal(seeds.generator(7, name).random(5), np.random.default_rng(child).random(5))


def test_the_order_of_streams_is_kept():
    # reordering or inserting would change the results of every recorded run; appending does not
    assert seeds.STREAMS[:7] == ("weights", "split", "order", "masks", "variation", "selection", "restart")
    assert len(set(seeds.STREAMS)) == len(seeds.STREAMS)


@pytest.mark.parametrize("draw", [lambda s, n: tuple(seeds.generator(s, n).integers(2**62, size=4)), seeds.integer])
def test_streams_and_seeds_all_differ_and_repeat(draw):
    drawn = {(seed, name): draw(seed, name) for seed in range(4) for name in seeds.STREAMS}
    assert len(set(drawn.values())) == len(drawn)
    assert all(draw(seed, name) == value for (seed, name), value in drawn.items())


def test_integer_fits_into_63_bits():
    drawn = [seeds.integer(seed, "order") for seed in range(64)]
    assert all(isinstance(value, int) and 0 <= value < 2**63 for value in drawn)
    assert max(drawn) >= 2**61  # the high bits are used


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True, np.float64(1)])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(InputError, match="non-negative integer"):
        seeds.check_seed(seed)
    with pytest.raises(InputError, match="seed is"):
        seeds.generator(seed, "masks")


def test_numpy_integers_are_seeds():
    assert seeds.check_seed(np.int64(3)) == 3
    assert type(seeds.check_seed(np.int64(3))) is int
    assert seeds.integer(np.uint8(3), "split") == seeds.integer(3, "split")


def test_global_random_draws_from_the_stream_and_restores():
    expected = random.Random(5)
    wanted = [expected.random() for _ in range(4)]
    stream, before = random.Random(5), random.getstate()
    drawn = []
    for _ in range(2):  # the stream goes on where the first use left it
        with seeds.global_random(stream):
            drawn += [random.random(), random.random()]
        assert random.getstate() == before
    assert drawn == wanted
    assert stream.random() == expected.random()


def test_global_random_restores_after_an_error():
    stream, before = random.Random(5), random.getstate()
    with pytest.raises(KeyError), seeds.global_random(stream):
        random.random()
        raise KeyError
    assert random.getstate() == before
    assert stream.getstate() != random.Random(5).getstate()  # what was drawn before the error counts
