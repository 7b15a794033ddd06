"""Mutation and crossover of masks, which keep the number of survivors.

They have DEAP's signatures: a mutation takes an individual and returns it in a tuple, a crossover takes two and returns both.
As DEAP's own, they change what they are given, in place, for DEAP's algorithms hand them clones, and leave the fitness alone,
for those algorithms delete it. They draw from ``rng`` alone, which is bound when they are registered::

    rng = seeds.generator(seed, "variation")
    toolbox.register("mutate", operators.swap, fraction=0.05, rng=rng)
    toolbox.register("mate", operators.uniform, rng=rng)

Every crossover shares out the positions in which the parents differ, so that afterwards, whatever was asked,

    a | b and a & b are what they were, and each of the two keeps the number of survivors that it had.

So a weight that both parents keep stays, one that neither keeps stays out ("respect": Radcliffe 1991, Forma analysis and random
respectful recombination, ICGA), and what one child does not get the other does, also where parents have unequal numbers.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError, look_up
from evoprune.initialize import survivors_of
from evoprune.mask import Bits, Mask, layer_slices

Indices: TypeAlias = NDArray[np.signedinteger[Any]]

SCOPES = ("global", "layer")
GROW = ("gradient", "random")
MISSING = ("error", "random", "silent")
NO_EVIDENCE = (
    "a mask that was evaluated has no evidence, so chance decides in place of it; expected evidence= above 0 in make_toolbox, "
    "and fitness values handed on as the evaluator returns them, or the toolbox's own map (workers=); missing='error' raises."
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a mask's own evaluation says about its weights; kept beside the mask, as ``mask.evidence``.

    See :func:`evoprune.evidence.take_evidence`. It travels with its mask, into clones, pickles and workers.

    Attributes:
        mask: Hash of the mask that it was taken for.
        still: Indices of survivors, from the one that moved least; only the first few.
        grow: Indices of removed weights, from the one with the largest dense gradient; only the first few.
    """

    mask: str
    still: Indices
    grow: Indices


def swap(
    mask: Mask, *, rng: np.random.Generator, n: int | None = None, fraction: float | None = None, scope: str = "global"
) -> tuple[Mask]:
    """Removes random survivors, and puts as many removed weights in; none goes out and in at once.

    The mutation of bit strings of a fixed number of ones; the random part of SET (Mocanu et al. 2018, arXiv:1707.04780).

    Args:
        mask: The individual, which is changed.
        rng: Source of the draws.
        n: How many to swap, at least 1; fewer where there are not so many survivors, or removed weights.
        fraction: The same as a fraction of the survivors, of which at least one is swapped. Give one of the two.
        scope: What keeps its survivors: ``global``: the whole mask. ``layer``: every layer; the swaps fall on the layers in
            proportion to how many each allows.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    amount = _amount(mask.survivors, n, fraction)
    blocks = _blocks(mask, scope)
    survivors = [block.start + np.flatnonzero(mask.bits[block]) for block in blocks]
    removed = [block.start + np.flatnonzero(~mask.bits[block]) for block in blocks]
    possible = [min(len(s), len(r)) for s, r in zip(survivors, removed, strict=True)]
    counts = rng.multivariate_hypergeometric(possible, min(amount, sum(possible)))
    leaving = [rng.choice(own, count, replace=False) for own, count in zip(survivors, counts, strict=True)]
    coming = [rng.choice(own, count, replace=False) for own, count in zip(removed, counts, strict=True)]
    _exchange(mask, np.concatenate(leaving), np.concatenate(coming))
    return (mask,)


def move_density(mask: Mask, *, rng: np.random.Generator, fraction: float) -> tuple[Mask]:
    """Removes random survivors of one layer, and puts as many weights into another; the total is kept.

    An evolutionary form of the reallocation between layers in training (Mostafa and Wang 2019, arXiv:1902.05967). Any two
    layers are as likely as any other two, in either direction, as long as the first has two survivors, for it keeps one, and
    the second has room.

    Args:
        mask: The individual, which is changed; it is not where no two layers will do.
        rng: Source of the draws.
        fraction: How many move, at least one: this fraction of the smaller layer's survivors. Taken of the smaller one of the
            two, a move and the move back are alike in size, and chance does not level the layers.

    Raises:
        InputError: The fraction is out of range.
    """
    _part(fraction, 0)  # refuses bad values, also where nothing can move
    blocks = _blocks(mask, "layer")
    counts = [int(np.count_nonzero(mask.bits[block])) for block in blocks]
    room = [block.stop - block.start - count for block, count in zip(blocks, counts, strict=True)]
    layers = range(len(blocks))
    pairs = [(i, j) for i in layers for j in layers if i != j and counts[i] > 1 and room[j] > 0]
    if not pairs:
        return (mask,)
    source, target = pairs[rng.integers(len(pairs))]
    amount = min(_part(fraction, min(counts[source], counts[target])), counts[source] - 1, room[target])
    leaving = rng.choice(np.flatnonzero(mask.bits[blocks[source]]), amount, replace=False)
    coming = rng.choice(np.flatnonzero(~mask.bits[blocks[target]]), amount, replace=False)
    _exchange(mask, blocks[source].start + leaving, blocks[target].start + coming)
    return (mask,)


def informed(
    mask: Mask,
    *,
    rng: np.random.Generator,
    fraction: float,
    grow: str = "gradient",
    among: float = 1.0,
    scope: str = "global",
    missing: str = "error",
) -> tuple[Mask]:
    """Removes the survivors that moved least in the mask's own evaluation, and grows where the dense gradient is largest.

    RigL's criterion of growth (Evci et al. 2020, arXiv:1911.11134), or SET's (Mocanu et al. 2018, arXiv:1707.04780), as a
    mutation between trainings from W0 rather than in the midst of one. Where those drop the smallest weights, this drops
    those that moved least, as dissipating gradients do (arXiv:2209.02201): at initialization size says little.

    Args:
        mask: The individual, which is changed; its ``evidence`` is used, and then None, for it is another mask's.
        rng: Source of the draws, where something is left to chance.
        fraction: Fraction of the survivors to swap, at least one; at most what evidence was taken for.
        grow: What comes in: ``gradient``: the removed weights with the largest dense gradient. ``random``: any.
        among: Draws what goes and what comes among so many times as many of the first, as far as the evidence names them. 1
            takes exactly the first: then a mask has one such child, however often it is mutated, unless growth is random.
        scope: What keeps its survivors: ``global``: the whole mask. ``layer``: every layer gets back what it loses, and loses
            no more than it can get back.
        missing: What to do with a mask that has no evidence, or another mask's: ``error``, or ``random``: :func:`swap`. DEAP's
            ``varAnd`` mutates children of crossovers, which have none before they are evaluated. A mask that was evaluated and
            has none all the same is warned of, for then all of the search may be random; not under ``silent``.

    Raises:
        InputError: A value out of range, an unknown name, or evidence that is missing, another mask's, or too little.
    """
    look_up("grow", grow, dict.fromkeys(GROW, True))
    look_up("missing", missing, dict.fromkeys(MISSING, True))
    if not 1 <= among < math.inf:
        raise InputError(f"among is {among}; expected a number of at least 1, such as 2.")
    blocks = _blocks(mask, scope)
    amount = min(_part(fraction, mask.survivors), mask.survivors, len(mask) - mask.survivors)
    if amount == 0:
        return (mask,)
    evidence = _evidence(mask, missing)
    if evidence is None:
        return swap(mask, rng=rng, fraction=fraction, scope=scope)
    gone = _first(evidence.still, amount, among, rng)
    leaving, coming = [], []
    for block in blocks:
        removed = block.start + np.flatnonzero(~mask.bits[block])
        lost = gone[_within(gone, block)][: len(removed)]
        named = evidence.grow[_within(evidence.grow, block)] if grow == "gradient" else rng.permutation(removed)
        leaving.append(lost)
        coming.append(_first(named, len(lost), among, rng))
    _exchange(mask, np.concatenate(leaving), np.concatenate(coming))
    return (mask,)


def shrink(mask: Mask, *, rng: np.random.Generator, survivors: int, among: float = 1.0, missing: str = "error") -> tuple[Mask]:
    """Removes the survivors that the mask's own evaluation says least for, until so many are left.

    A step of iterative pruning with rewinding to W0 (Frankle and Carbin 2019, arXiv:1803.03635) as a mutation.

    Args:
        mask: The individual, which is changed; its ``evidence`` is used, and random survivors go beyond what it names.
        rng: Source of the draws, where something is left to chance.
        survivors: How many are left, at least 1; a mask that has no more stays as it is.
        among: Draws what goes among so many times as many of the first, as far as the evidence names them.
        missing: See :func:`informed`; ``random`` and ``silent`` remove random ones.

    Raises:
        InputError: A value out of range, an unknown name, or evidence that is missing or another mask's.
    """
    look_up("missing", missing, dict.fromkeys(MISSING, True))
    if not 1 <= among < math.inf:
        raise InputError(f"among is {among}; expected a number of at least 1, such as 1.2.")
    if isinstance(survivors, bool) or not isinstance(survivors, (int, np.integer)) or survivors < 1:
        raise InputError(f"survivors are {survivors!r}; expected a positive integer.")
    surplus = mask.survivors - survivors
    if surplus <= 0:
        return (mask,)
    evidence = _evidence(mask, missing)
    named = evidence.still if evidence is not None else np.empty(0, np.int64)
    first = min(surplus, len(named))
    gone = _first(named, first, among, rng) if first else named
    _set(mask, gone, False)
    _set(mask, rng.choice(np.flatnonzero(mask.bits), surplus - first, replace=False), False)
    mask.meant = int(survivors)
    return (mask,)


def vary_sparsity(mask: Mask, *, rng: np.random.Generator, low: float, high: float, fraction: float) -> tuple[Mask]:
    """Removes or adds random weights, a random number of them: for runs in which sparsity is an objective.

    Every number of survivors within reach is equally likely, but for the present one.

    Args:
        mask: The individual, which is changed; it is not where the bounds allow one number of survivors and it has that.
        rng: Source of the draws.
        low: Least sparsity, in [0, 1).
        high: Largest sparsity, in [0, 1); the bounds are met as :func:`evoprune.initialize.survivors_of` counts. A mask
            outside of them goes at least to the nearer one.
        fraction: Most weights to remove or to add, as a fraction of the survivors; at least one.

    Raises:
        InputError: A value out of range.
    """
    least, most = survivors_of(high, len(mask)), survivors_of(low, len(mask))
    if low > high:
        raise InputError(f"sparsity is to vary from {low} to {high}; expected the lower bound first.")
    now = mask.survivors
    step = _part(fraction, now)
    first, last = np.clip([now - step, now + step], least, most)
    reach = np.arange(first, last + 1)
    reach = reach[reach != now]
    if reach.size:
        repair(mask, rng=rng, survivors=int(rng.choice(reach)))
    mask.meant = mask.survivors
    return (mask,)


def repair(mask: Mask, *, rng: np.random.Generator, survivors: int) -> tuple[Mask]:
    """Removes or adds random weights until a mask has so many survivors.

    Args:
        mask: The individual, which is changed; it is not where it has that number.
        rng: Source of the draws.
        survivors: How many it is to have, from 0 to all.

    Raises:
        InputError: The number is out of range.
    """
    if isinstance(survivors, bool) or not isinstance(survivors, (int, np.integer)) or not 0 <= survivors <= len(mask):
        raise InputError(f"survivors are {survivors!r}; expected an integer from 0 to the {len(mask)} weights.")
    change = int(survivors) - mask.survivors
    if change:
        _set(mask, rng.choice(np.flatnonzero(mask.bits == (change < 0)), abs(change), replace=False), change > 0)
    return (mask,)


def keep_survivors(*, rng: np.random.Generator) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator after which an operator keeps every mask's number of survivors: :func:`repair` mends what it changed.

    For operators that know nothing of survivors, such as DEAP's own::

        toolbox.register("mate", tools.cxTwoPoint)
        toolbox.decorate("mate", operators.keep_survivors(rng=rng))

    Args:
        rng: Source of the draws.
    """
    return functools.partial(_KeepsSurvivors, rng)


class _KeepsSurvivors:
    """An operator that is repaired after; a class, so that a toolbox that has it pickles."""

    __slots__ = ("operator", "rng")

    def __init__(self, rng: np.random.Generator, operator: Callable[..., Any]) -> None:
        self.rng, self.operator = rng, operator

    def __call__(self, *individuals: Any, **options: Any) -> Any:
        counts = [each.survivors for each in individuals if isinstance(each, Mask)]
        children = self.operator(*individuals, **options)
        for child, count in zip(children, counts, strict=True):
            repair(child, rng=self.rng, survivors=count)
        return children


def uniform(a: Mask, b: Mask, *, rng: np.random.Generator, scope: str = "global") -> tuple[Mask, Mask]:
    """Shares out the positions in which the parents differ, at random.

    Uniform crossover (Syswerda 1989, Uniform crossover in genetic algorithms, ICGA), drawn without replacement so that the
    numbers of survivors are kept; see this module on what else is.

    Args:
        a: An individual, which is changed.
        b: Another for the same network, which is changed.
        rng: Source of the draws.
        scope: What keeps its survivors: ``global``: each whole mask. ``layer``: every layer of each.

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
    repair: a child with too many survivors gives random ones of those in which the parents differ to the other child, so
    nothing comes in that neither parent has. Where parents agree in every layer's number, nothing is repaired.

    Args:
        a: An individual, which is changed; it is not where the parents differ in one layer only.
        b: Another for the same network, which is changed.
        rng: Source of the draws.

    Raises:
        InputError: Masks for different networks.
    """
    return _swap_groups(a, b, rng, _layer_of, "global")


def by_neuron(a: Mask, b: Mask, *, rng: np.random.Generator, scope: str = "global") -> tuple[Mask, Mask]:
    """Swaps neurons at random, each with all its incoming weights, then repairs as :func:`by_layer` does.

    The crossover of nodes of Montana and Davis (1989, Training feedforward neural networks using genetic algorithms, IJCAI).
    A neuron is a row of a weight, along its first dimension: of a linear layer an output, of a convolution an output channel.
    (A transposed convolution has its input channels there.)

    Args:
        a: An individual, which is changed; it is not where the parents differ in one neuron only.
        b: Another for the same network, which is changed.
        rng: Source of the draws.
        scope: What keeps its survivors, and so what is repaired: ``global``: each whole mask. ``layer``: every layer of each.

    Raises:
        InputError: Masks for different networks, or an unknown name.
    """
    return _swap_groups(a, b, rng, _neuron_of, scope)


Mutation: TypeAlias = Callable[..., tuple[Mask]]
Crossover: TypeAlias = Callable[..., tuple[Mask, Mask]]

MUTATIONS: dict[str, Mutation] = {
    "swap": swap,
    "density": move_density,
    "informed": informed,
    "sparsity": vary_sparsity,
}

CROSSOVERS: dict[str, Crossover] = {
    "uniform": uniform,
    "layer": by_layer,
    "neuron": by_neuron,
}


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
    held = own ^ taken[group]  # where the parents differ, one has what the other has not
    for block in blocks:
        surplus = int(np.count_nonzero(held[block])) - int(np.count_nonzero(own[block]))
        candidates = block.start + np.flatnonzero(held[block] == (surplus > 0))
        held[rng.choice(candidates, abs(surplus), replace=False)] = surplus < 0
    _share(a, b, differ, held)
    return a, b


def _differences(a: Mask, b: Mask, scope: str) -> tuple[Indices, Bits, list[slice]]:
    """Returns where the parents differ, which of that is a's, and the parts of it that keep their survivors."""
    b.require(a.shapes)
    differ = np.flatnonzero(a.bits != b.bits)
    ends = [np.searchsorted(differ, block.stop) for block in _blocks(a, scope)]
    return differ, a.bits[differ], [slice(*map(int, pair)) for pair in zip([0, *ends], ends, strict=False)]


def _share(a: Mask, b: Mask, differ: Indices, held: Bits) -> None:
    _set(a, differ, held)
    _set(b, differ, ~held)


def _exchange(mask: Mask, leaving: Indices, coming: Indices) -> None:
    _set(mask, leaving, False)
    _set(mask, coming, True)


def _set(mask: Mask, index: Indices, value: Bits | bool) -> None:
    if np.any(mask.bits[index] != value):
        mask.bits[index] = value
        mask.evidence = None


def _evidence(mask: Mask, missing: str) -> Evidence | None:
    """Returns the mask's evidence, if it was taken for what the mask is now; None where chance will do instead."""
    evidence = mask.evidence
    if evidence is None or evidence.mask != mask.hash:
        if missing != "error":
            # the child of a crossover has no fitness, a failure none that is finite: neither can have evidence
            evaluated = mask.fitness.valid and all(map(math.isfinite, mask.fitness.values))
            if evaluated and missing == "random":
                warnings.warn(NO_EVIDENCE, UserWarning, stacklevel=3)
            return None
        raise InputError(
            "the mask has no evidence, or another mask's; set mask.evidence = take_evidence(...) after its evaluation, or use "
            "missing='random', which swaps at random where there is none: a crossover's children have none yet."
        )
    return evidence


def _first(named: Indices, count: int, among: float, rng: np.random.Generator) -> Indices:
    """Returns ``count`` of the first that the evidence names, in its order."""
    if len(named) < count:
        raise InputError(
            f"{count} are to be swapped, but the evidence names {len(named)}; lower fraction, or take_evidence of more."
        )
    reach = min(len(named), round(among * count))
    return named[np.sort(rng.choice(reach, count, replace=False))]


def _amount(survivors: int, n: int | None, fraction: float | None) -> int:
    if (n is None) == (fraction is None):
        raise InputError(f"n is {n} and fraction {fraction}; expected one of them: a number, or a fraction of the survivors.")
    if fraction is not None:
        return _part(fraction, survivors)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise InputError(f"n is {n!r}; expected a positive integer.")
    return int(n)


def _part(fraction: float, survivors: int) -> int:
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}; expected a number above 0 and at most 1, such as 0.05.")
    return max(1, round(fraction * survivors))


def _blocks(mask: Mask, scope: str) -> list[slice]:
    """Returns the parts of a mask that keep their survivors."""
    look_up("scope", scope, dict.fromkeys(SCOPES, True))
    return list(layer_slices(mask.shapes).values()) if scope == "layer" else [slice(0, len(mask))]


def _within(index: Indices, block: slice) -> Bits:
    within: Bits = (index >= block.start) & (index < block.stop)
    return within


def _layer_of(mask: Mask, index: Indices) -> Indices:
    layer: Indices = np.searchsorted([block.stop for block in _blocks(mask, "layer")], index, side="right")
    return layer


def _neuron_of(mask: Mask, index: Indices) -> Indices:
    layer = _layer_of(mask, index)
    starts = np.array([block.start for block in _blocks(mask, "layer")])
    rows = np.array([shape[0] if shape else 1 for shape in mask.shapes.values()])
    row_sizes = np.array([math.prod(shape[1:]) for shape in mask.shapes.values()])
    row: Indices = (np.cumsum(rows) - rows)[layer] + (index - starts[layer]) // row_sizes[layer]
    return row
