"""Operators that are bound to the options of a search."""

import numpy as np
import pytest

from evoprune import operators
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.operators.binding import bind_crossover, bind_mutation
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import MUTATIONS

SHAPES = {"a": (4, 5), "b": (3, 4)}
OPTIONS = {"scope": "layer", "grow": "random", "among": 1.5, "missing": "silent", "low": 0.3, "high": 0.6}


def mask_of(seed):
    return Mask(np.random.default_rng(seed).permutation(np.arange(32) < 16), SHAPES)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_gets_the_options_that_it_takes(name):
    rng = np.random.default_rng(0)
    (child,) = bind_mutation(name, OPTIONS)(mask_of(1), fraction=0.2, rng=rng)
    wanted = {
        "swap": {"scope": "layer"},
        "density": {},
        "informed": {"scope": "layer", "grow": "random", "among": 1.5, "missing": "silent"},
        "sparsity": {"low": 0.3, "high": 0.6},
    }[name]
    assert child == MUTATIONS[name](mask_of(1), fraction=0.2, rng=np.random.default_rng(0), **wanted)[0]


@pytest.mark.parametrize("name", CROSSOVERS)
def test_a_crossover_gets_the_options_that_it_takes(name):
    children = bind_crossover(name, OPTIONS)(mask_of(1), mask_of(2), rng=np.random.default_rng(0))
    wanted = {} if name == "layer" else {"scope": "layer"}
    assert children == CROSSOVERS[name](mask_of(1), mask_of(2), rng=np.random.default_rng(0), **wanted)


def test_a_function_of_the_users_is_taken():
    def twice(mask, *, fraction, rng, scope):
        operators.swap(mask, fraction=fraction, rng=rng, scope=scope)
        return operators.swap(mask, fraction=fraction, rng=rng, scope=scope)

    (child,) = bind_mutation(twice, OPTIONS)(mask_of(1), fraction=0.2, rng=np.random.default_rng(0))
    assert child.survivors == 16
    assert child != mask_of(1)
    a, b = bind_crossover(lambda a, b, *, rng: (b, a), OPTIONS)(mask_of(1), mask_of(2), rng=np.random.default_rng(0))
    assert (a, b) == (mask_of(2), mask_of(1))


def test_an_operator_that_returns_no_tuple_of_masks_is_refused():
    with pytest.raises(InputError, match=r"returned Mask; expected a tuple of masks, \(mask,\)"):
        bind_mutation(lambda mask, *, fraction, rng: mask, {})(mask_of(1), fraction=0.2, rng=None)
    with pytest.raises(InputError, match=r"returned \(Mask\); expected a tuple of masks, \(a, b\)"):
        bind_crossover(lambda a, b, *, rng: (a,), {})(mask_of(1), mask_of(2), rng=None)
    with pytest.raises(InputError, match="unknown mutation 'swp'"):
        bind_mutation("swp", {})
