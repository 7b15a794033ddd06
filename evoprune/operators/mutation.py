"""Mutations: survivors are exchanged for removed weights."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError, look_up
from evoprune.masks.evidence import Evidence
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.operators.keeping import repair
from evoprune.operators.positions import (
    Mutation,
    amount_of,
    blocks_of,
    draw_removed,
    exchange,
    first_named,
    part_of,
    set_bits,
    within,
)
from evoprune.registry import Registry

GROW = ("gradient", "random")
# Up to so many removed weights are put in random order to let some grow, as in runs that are recorded; more take too long.
PERMUTED = 300_000
MISSING = ("error", "random", "silent")
NO_EVIDENCE = (
    "a mask that was evaluated has no evidence, so chance decides in place of it; expected evidence= above 0 in make_toolbox, "
    "and fitness values handed on as the evaluator returns them, or the toolbox's own map (workers=); missing='error' raises."
)


def swap(
    mask: Mask, *, rng: np.random.Generator, n: int | None = None, fraction: float | None = None, scope: str = "global"
) -> tuple[Mask]:
    """Exchanges random survivors for as many removed weights; none leaves and enters at once.

    The mutation of bit strings of a fixed number of ones; the random part of SET (Mocanu et al. 2018, arXiv:1707.04780).

    Args:
        mask: The individual, which is changed.
        rng: Source of the draws.
        n: How many to swap, at least 1; fewer if there are not so many survivors or removed weights.
        fraction: The same as a fraction of the survivors; at least one is swapped. Give one of the two.
        scope: The part that keeps its number of survivors. ``global``: the whole mask. ``layer``: every layer; the swaps
            are spread over the layers in proportion to the number that each allows.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    amount = amount_of(mask.survivors, n, fraction)
    blocks = blocks_of(mask, scope)
    survivors = [block.start + np.flatnonzero(mask.bits[block]) for block in blocks]
    possible = [min(len(own), block.stop - block.start - len(own)) for own, block in zip(survivors, blocks, strict=True)]
    counts = rng.multivariate_hypergeometric(possible, min(amount, sum(possible)))
    leaving = [rng.choice(own, count, replace=False) for own, count in zip(survivors, counts, strict=True)]
    coming = [draw_removed(mask, block, count, rng) for block, count in zip(blocks, counts, strict=True)]
    exchange(mask, np.concatenate(leaving), np.concatenate(coming))
    return (mask,)


def move_density(mask: Mask, *, rng: np.random.Generator, fraction: float) -> tuple[Mask]:
    """Removes random survivors of one layer, and adds as many weights to another; the total is kept.

    An evolutionary form of the reallocation between layers in training (Mostafa and Wang 2019, arXiv:1902.05967). All pairs
    of layers are equally likely, in either direction, as long as the first has two survivors, since it keeps one, and the
    second has room.

    Args:
        mask: The individual, which is changed unless there are no such layers.
        rng: Source of the draws.
        fraction: How many move, as a fraction of the survivors of the smaller layer; at least one. Because it is taken of the
            smaller layer, a move and the move back are of the same size, and chance does not level the layers.

    Raises:
        InputError: The fraction is out of range.
    """
    part_of(fraction, 0)  # refuses bad values, even if nothing can move
    blocks = blocks_of(mask, "layer")
    counts = [int(np.count_nonzero(mask.bits[block])) for block in blocks]
    room = [block.stop - block.start - count for block, count in zip(blocks, counts, strict=True)]
    layers = range(len(blocks))
    pairs = [(i, j) for i in layers for j in layers if i != j and counts[i] > 1 and room[j] > 0]
    if not pairs:
        return (mask,)
    source, target = pairs[rng.integers(len(pairs))]
    amount = min(part_of(fraction, min(counts[source], counts[target])), counts[source] - 1, room[target])
    leaving = rng.choice(np.flatnonzero(mask.bits[blocks[source]]), amount, replace=False)
    coming = draw_removed(mask, blocks[target], amount, rng)
    exchange(mask, blocks[source].start + leaving, coming)
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
    """Removes the survivors that moved least in the mask's own evaluation, and adds weights of the largest dense gradient.

    This is RigL's criterion of growth (Evci et al. 2020, arXiv:1911.11134), or SET's (Mocanu et al. 2018, arXiv:1707.04780),
    as a mutation between trainings from W0 rather than in the middle of one. RigL and SET drop the smallest weights; this
    drops those that moved least, as dissipating gradients do (arXiv:2209.02201): at initialization size says little.

    Args:
        mask: The individual, which is changed; its ``evidence`` is used, and then dropped, since the mask has changed.
        rng: Source of the draws that are left to chance.
        fraction: Fraction of the survivors to swap; at least one is swapped, and at most as many as the evidence names.
        grow: The weights that come in. ``gradient``: the removed weights of the largest dense gradient. ``random``: any.
        among: Draws the weights among so many times as many of the first that the evidence names. 1 takes exactly the first:
            then all such children of a mask are equal, unless growth is random.
        scope: The part that keeps its number of survivors. ``global``: the whole mask. ``layer``: every layer gains as many
            weights as it loses.
        missing: Treatment of a mask without evidence, or with another mask's. ``error`` raises. ``random`` calls :func:`swap`:
            DEAP's ``varAnd`` mutates children of crossovers, which have no evidence before they are evaluated. It warns if a
            mask was evaluated but has no evidence, since then the whole search may be random. ``silent`` does not warn.

    Raises:
        InputError: A value out of range, an unknown name, or evidence that is missing, of another mask, or too little.
    """
    look_up("grow", grow, dict.fromkeys(GROW, True))
    look_up("missing", missing, dict.fromkeys(MISSING, True))
    if not 1 <= among < math.inf:
        raise InputError(f"among is {among}; expected a number of at least 1, such as 2.")
    blocks = blocks_of(mask, scope)
    amount = min(part_of(fraction, mask.survivors), mask.survivors, len(mask) - mask.survivors)
    if amount == 0:
        return (mask,)
    evidence = _evidence(mask, missing)
    if evidence is None:
        return swap(mask, rng=rng, fraction=fraction, scope=scope)
    gone = first_named(evidence.still, amount, among, rng)
    leaving, coming = [], []
    for block in blocks:
        removed = block.stop - block.start - int(np.count_nonzero(mask.bits[block]))
        lost = gone[within(gone, block)][:removed]
        if grow == "gradient":
            named = evidence.grow[within(evidence.grow, block)]
        elif removed <= PERMUTED:
            named = rng.permutation(block.start + np.flatnonzero(~mask.bits[block]))
        else:
            named = draw_removed(mask, block, min(removed, round(among * len(lost))), rng)
        leaving.append(lost)
        coming.append(first_named(named, len(lost), among, rng))
    exchange(mask, np.concatenate(leaving), np.concatenate(coming))
    return (mask,)


def shrink(
    mask: Mask,
    *,
    rng: np.random.Generator,
    survivors: int,
    fraction: float = 0.0,
    grow: str = "gradient",
    among: float = 1.0,
    missing: str = "error",
) -> tuple[Mask]:
    """Removes the survivors that the mask's own evaluation ranks lowest, until a given number is left; others may grow.

    A step of iterative pruning (Frankle and Carbin 2019, arXiv:1803.03635), or, with a fraction that grows, of GraNet (Liu et
    al. 2021, arXiv:2106.10404) as a mutation.

    Args:
        mask: The individual, which is changed; its ``evidence`` is used, and random survivors go if it names too few.
        rng: Source of the draws that are left to chance.
        survivors: How many are left, at least 1; a mask that has no more stays as it is.
        fraction: Fraction of these that is exchanged besides, as by :func:`informed`; 0 for none.
        grow: The weights that come in: those of the largest dense gradient (``gradient``), or ``random`` ones.
        among: Draws the weights among so many times as many of the first that the evidence names.
        missing: See :func:`informed`; ``random`` and ``silent`` remove random ones.

    Raises:
        InputError: A value out of range, an unknown name, or evidence that is missing or of another mask.
    """
    look_up("missing", missing, dict.fromkeys(MISSING, True))
    look_up("grow", grow, dict.fromkeys(GROW, True))
    if not 1 <= among < math.inf:
        raise InputError(f"among is {among}; expected a number of at least 1, such as 1.2.")
    if isinstance(survivors, bool) or not isinstance(survivors, (int, np.integer)) or survivors < 1:
        raise InputError(f"survivors are {survivors!r}; expected a positive integer.")
    surplus = mask.survivors - survivors
    if surplus <= 0:
        return (mask,)
    evidence = _evidence(mask, missing)
    named = evidence.still if evidence is not None else np.empty(0, np.int64)
    wanted = part_of(fraction, survivors) if fraction and evidence is not None else 0
    extra = min(wanted, len(named) - surplus, len(mask) - mask.survivors) if len(named) > surplus else 0
    coming = _coming(mask, evidence, extra, grow, among, rng) if evidence is not None else named
    first = min(surplus + len(coming), len(named))
    gone = first_named(named, first, among, rng) if first else named
    exchange(mask, gone, coming)
    set_bits(mask, rng.choice(np.flatnonzero(mask.bits), mask.survivors - survivors, replace=False), False)
    mask.meant = int(survivors)
    return (mask,)


def _coming(mask: Mask, evidence: Evidence, count: int, grow: str, among: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns removed weights that grow, so many at most."""
    if count == 0:
        return np.empty(0, np.int64)
    if grow == "random":
        return draw_removed(mask, slice(0, len(mask)), count, rng)
    return first_named(evidence.grow, min(count, len(evidence.grow)), among, rng)


def vary_sparsity(mask: Mask, *, rng: np.random.Generator, low: float, high: float, fraction: float) -> tuple[Mask]:
    """Removes or adds a random number of random weights, for runs in which sparsity is an objective.

    Every number of survivors within reach is equally likely, except the present one.

    Args:
        mask: The individual, which is changed unless the bounds allow its present number of survivors alone.
        rng: Source of the draws.
        low: Least sparsity, in [0, 1).
        high: Largest sparsity, in [0, 1); bounds are counted as by :func:`evoprune.masks.random.survivors_of`. A mask
            outside of them moves at least to the nearer one.
        fraction: The largest number of weights to remove or add, as a fraction of the survivors; at least one.

    Raises:
        InputError: A value out of range.
    """
    least, most = survivors_of(high, len(mask)), survivors_of(low, len(mask))
    if low > high:
        raise InputError(f"sparsity is to vary from {low} to {high}; expected the lower bound first.")
    now = mask.survivors
    step = part_of(fraction, now)
    first, last = np.clip([now - step, now + step], least, most)
    reach = np.arange(first, last + 1)
    reach = reach[reach != now]
    if reach.size:
        repair(mask, rng=rng, survivors=int(rng.choice(reach)))
    mask.meant = mask.survivors
    return (mask,)


MUTATIONS: Registry[Mutation] = Registry(
    "mutation", {"swap": swap, "density": move_density, "informed": informed, "sparsity": vary_sparsity}
)


def _evidence(mask: Mask, missing: str) -> Evidence | None:
    """Returns the mask's evidence if it was taken for the mask as it is now; None if chance decides instead."""
    evidence = mask.evidence
    if evidence is None or evidence.mask != mask.hash:
        if missing != "error":
            # a crossover's child, which has no fitness, and a failure, whose fitness is infinite, cannot have evidence
            evaluated = mask.fitness.valid and all(map(math.isfinite, mask.fitness.values))
            if evaluated and missing == "random":
                warnings.warn(NO_EVIDENCE, UserWarning, stacklevel=3)
            return None
        raise InputError(
            "the mask has no evidence, or another mask's; set mask.evidence = take_evidence(...) after its evaluation, or use "
            "missing='random', which swaps at random where there is none: a crossover's children have none yet."
        )
    return evidence
