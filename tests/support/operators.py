"""Masks, evidence and options for operators."""

import copy
import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import evoprune as ep
from evoprune.operators import (
    CROSSOVERS,
    MUTATIONS,
    Evidence,
)

NETWORKS = {
    "one layer": {"w": (3, 5)},
    "two layers": {"a": (4, 3), "b": (2, 4)},
    "convolution": {"conv": (4, 2, 3, 3), "fc": (3, 16), "bias-like": (3,)},
    "a layer of one weight": {"a": (1, 1), "b": (5, 4), "c": (1,)},
    "one weight": {"w": (1, 1)},
}


LENET = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}


few = settings(deadline=None, max_examples=40, database=None)


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
