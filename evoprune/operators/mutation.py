"""Mutations: survivors are exchanged for removed weights."""

from __future__ import annotations

import math
import warnings

import numpy as np

from evoprune.errors import InputError, look_up
from evoprune.masks.evidence import Evidence
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.operators.keeping import repair
from evoprune.operators.positions import Mutation, amount_of, blocks_of, exchange, first_named, part_of, set_bits, within
from evoprune.registry import Registry

GROW = ("gradient", "random")
MISSING = ("error", "random", "silent")
NO_EVIDENCE = (
    "a mask that was evaluated has no evidence, so chance decides in place of it; expected evidence= above 0 in make_toolbox, "
    "and fitness values handed on as the evaluator returns them, or the toolbox's own map (workers=); missing='error' raises."
)


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
    amount = amount_of(mask.survivors, n, fraction)
    blocks = blocks_of(mask, scope)
    survivors = [block.start + np.flatnonzero(mask.bits[block]) for block in blocks]
    removed = [block.start + np.flatnonzero(~mask.bits[block]) for block in blocks]
    possible = [min(len(s), len(r)) for s, r in zip(survivors, removed, strict=True)]
    counts = rng.multivariate_hypergeometric(possible, min(amount, sum(possible)))
    leaving = [rng.choice(own, count, replace=False) for own, count in zip(survivors, counts, strict=True)]
    coming = [rng.choice(own, count, replace=False) for own, count in zip(removed, counts, strict=True)]
    exchange(mask, np.concatenate(leaving), np.concatenate(coming))
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
    part_of(fraction, 0)  # refuses bad values, also where nothing can move
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
    coming = rng.choice(np.flatnonzero(~mask.bits[blocks[target]]), amount, replace=False)
    exchange(mask, blocks[source].start + leaving, blocks[target].start + coming)
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
        removed = block.start + np.flatnonzero(~mask.bits[block])
        lost = gone[within(gone, block)][: len(removed)]
        named = evidence.grow[within(evidence.grow, block)] if grow == "gradient" else rng.permutation(removed)
        leaving.append(lost)
        coming.append(first_named(named, len(lost), among, rng))
    exchange(mask, np.concatenate(leaving), np.concatenate(coming))
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
    gone = first_named(named, first, among, rng) if first else named
    set_bits(mask, gone, False)
    set_bits(mask, rng.choice(np.flatnonzero(mask.bits), surplus - first, replace=False), False)
    mask.meant = int(survivors)
    return (mask,)


def vary_sparsity(mask: Mask, *, rng: np.random.Generator, low: float, high: float, fraction: float) -> tuple[Mask]:
    """Removes or adds random weights, a random number of them: for runs in which sparsity is an objective.

    Every number of survivors within reach is equally likely, but for the present one.

    Args:
        mask: The individual, which is changed; it is not where the bounds allow one number of survivors and it has that.
        rng: Source of the draws.
        low: Least sparsity, in [0, 1).
        high: Largest sparsity, in [0, 1); the bounds are met as :func:`evoprune.masks.random.survivors_of` counts. A mask
            outside of them goes at least to the nearer one.
        fraction: Most weights to remove or to add, as a fraction of the survivors; at least one.

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
