"""Crossovers: children of two masks, each with as many survivors as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from evoprune.masks.bits import Bits
from evoprune.masks.evidence import Indices
from evoprune.masks.mask import Mask
from evoprune.operators.positions import blocks_of, set_bits
from evoprune.registry import Registry


def uniform(a: Mask, b: Mask, *, rng: np.random.Generator, scope: str = "global") -> tuple[Mask, Mask]:
    """Shares out at random the positions in which the parents differ.

    Uniform crossover (Syswerda 1989, Uniform crossover in genetic algorithms, ICGA), drawn without replacement so that each
    child has as many survivors as its parent.

    Args:
        a: An individual, which is changed.
        b: Another for the same network, which is changed.
        rng: Source of the draws.
        scope: The parts that keep their numbers of survivors. ``global``: each whole mask. ``layer``: every layer of each.

    Raises:
        InputError: Masks for different networks, or an unknown name.
    """
    differ, own, blocks = _differences(a, b, scope)
    held = own.copy()
    for block in blocks:
        held[block] = rng.permutation(own[block])
    _share(a, b, differ, held)
    return a, b


def by_layer(a: Mask, b: Mask, *, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Swaps whole layers at random, then repairs each child to its parent's number of survivors.

    Each of the layers in which the parents differ is swapped with probability one half, but never none or all of them. The
    repair: a child with too many survivors gives random ones, of those in which the parents differ, to the other child, so
    no weight comes in that neither parent has. If the parents have equal numbers in every layer, nothing is repaired.

    Args:
        a: An individual, which is changed unless the parents differ in one layer only.
        b: Another for the same network, which is changed.
        rng: Source of the draws.

    Raises:
        InputError: Masks for different networks.
    """
    return _swap_groups(a, b, rng, _layer_of, "global")


def by_neuron(a: Mask, b: Mask, *, rng: np.random.Generator, scope: str = "global") -> tuple[Mask, Mask]:
    """Swaps neurons at random, each with all its incoming weights, then repairs as :func:`by_layer` does.

    The crossover of nodes of Montana and Davis (1989, Training feedforward neural networks using genetic algorithms, IJCAI).
    A neuron is a row of a weight along its first dimension: an output of a linear layer, an output channel of a convolution
    (and an input channel of a transposed one).

    Args:
        a: An individual, which is changed unless the parents differ in one neuron only.
        b: Another for the same network, which is changed.
        rng: Source of the draws.
        scope: The parts that keep their numbers of survivors by repair. ``global``: each whole mask. ``layer``: every layer of
            each.

    Raises:
        InputError: Masks for different networks, or an unknown name.
    """
    return _swap_groups(a, b, rng, _neuron_of, scope)


Crossover: TypeAlias = Callable[..., tuple[Mask, Mask]]

CROSSOVERS: Registry[Crossover] = Registry("crossover", {"uniform": uniform, "layer": by_layer, "neuron": by_neuron})


def _swap_groups(
    a: Mask, b: Mask, rng: np.random.Generator, group_of: Callable[[Mask, Indices], Indices], scope: str
) -> tuple[Mask, Mask]:
    differ, own, blocks = _differences(a, b, scope)
    groups, group = np.unique(group_of(a, differ), return_inverse=True)
    if len(groups) < 2:
        return a, b
    taken = np.zeros(len(groups), bool)
    while taken.all() or not taken.any():
        taken = rng.random(len(groups)) < 0.5
    held = own ^ taken[group]  # where the parents differ, exactly one of them has the weight
    for block in blocks:
        surplus = int(np.count_nonzero(held[block])) - int(np.count_nonzero(own[block]))
        candidates = block.start + np.flatnonzero(held[block] == (surplus > 0))
        held[rng.choice(candidates, abs(surplus), replace=False)] = surplus < 0
    _share(a, b, differ, held)
    return a, b


def _differences(a: Mask, b: Mask, scope: str) -> tuple[Indices, Bits, list[slice]]:
    """Returns the positions where the parents differ, a's bits there, and the slices that keep their survivors."""
    b.require(a.shapes)
    differ = np.flatnonzero(a.bits != b.bits)
    ends = [np.searchsorted(differ, block.stop) for block in blocks_of(a, scope)]
    return differ, a.bits[differ], [slice(*map(int, pair)) for pair in zip([0, *ends], ends, strict=False)]


def _share(a: Mask, b: Mask, differ: Indices, held: Bits) -> None:
    set_bits(a, differ, held)
    set_bits(b, differ, ~held)


def _layer_of(mask: Mask, index: Indices) -> Indices:
    layer: Indices = np.searchsorted([block.stop for block in blocks_of(mask, "layer")], index, side="right")
    return layer


def _neuron_of(mask: Mask, index: Indices) -> Indices:
    layer = _layer_of(mask, index)
    starts = np.array([block.start for block in blocks_of(mask, "layer")])
    rows = np.array([shape[0] if shape else 1 for shape in mask.shapes.values()])
    row_sizes = np.array([math.prod(shape[1:]) for shape in mask.shapes.values()])
    row: Indices = (np.cumsum(rows) - rows)[layer] + (index - starts[layer]) // row_sizes[layer]
    return row
