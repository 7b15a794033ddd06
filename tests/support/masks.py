"""Masks of small networks, given and drawn."""

import math

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from evoprune.masks.mask import Mask
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


# Masks and networks


X, Y = torch.linspace(-1, 1, 40).reshape(20, 2), torch.arange(20) % 2


def problem_of(*layers, x=X, **options):
    network = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
    return Problem(network, Data(train=(x, Y), validation=(x, Y), test=(x, Y)), **options)
