"""Evidence for the informed mutation: the survivors that stood still, and the removed weights of the largest gradients."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoprune.engines.population import Population
from evoprune.errors import InputError
from evoprune.masks.bits import layer_slices
from evoprune.masks.evidence import Evidence
from evoprune.problem.problem import Problem
from evoprune.training.dissipation import Dissipation, movement_scores
from evoprune.training.gradient import BATCH, dense_gradient_cost, population_gradient


def take_evidence(
    problem: Problem,
    population: Population,
    k: int,
    *,
    seed: int,
    fraction: float = 0.1,
    movement: str = "absolute",
    batch: int = BATCH,
) -> Evidence:
    """Returns the evidence for one individual of a population that has been trained.

    It depends on problem, mask, trained weights and the arguments only, and on torch's number of threads as far as the
    evaluation does: take it in the process of the evaluation. Neither population nor global random states are changed.

    Args:
        problem: The problem; movement is measured from its W0.
        population: The trained population.
        k: The individual; the evidence is for the mask that it has by now.
        seed: Seeds the batch, and the draws of ``movement="random"``: the run's, the same for every individual.
        fraction: How much to note, as a fraction of the survivors, at least one: the most that an informed mutation can
            swap, or choose from.
        movement: How survivors are ranked: see :class:`evoprune.training.dissipation.Dissipation`. Ties are broken by the
            index, here and below, and a survivor whose score is not a number counts as the one that moved most.
        batch: Training examples of the dense gradient, see :func:`evoprune.training.gradient.dense_gradient`.

    Raises:
        InputError: A value out of range or an unknown name.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}; expected a number above 0 and at most 1, such as 0.1.")
    mask = population.masks[k]
    survivors, removed = np.flatnonzero(mask.bits), np.flatnonzero(~mask.bits)
    few = min(max(1, round(fraction * len(survivors))), len(survivors))
    values = population.survivor_values(k, population.weights).cpu().numpy()
    scores = movement_scores(problem, mask, values, Dissipation(1, fraction=0.0, movement=movement), [seed])
    still = survivors[_least(scores, few)]
    rank = -population_gradient(problem, population, k, seed, batch)
    ranked = {f"the {movement} scores of survivors": scores, "the dense gradients of removed weights": rank[removed]}
    for what, keys in ranked.items():
        if 0 < few < len(keys) and keys.min() == keys.max():
            warnings.warn(f"{what} are all equal, so that they rank none, and evidence names the first by index.", stacklevel=2)
    noted = [removed[_least(rank[removed], min(few, len(removed)))]]
    # a mutation that keeps every layer's number grows in the layers that lose, wherever the largest gradients are
    for part in layer_slices(problem.shapes).values():
        lost = int(np.count_nonzero((still >= part.start) & (still < part.stop)))
        own = removed[slice(*np.searchsorted(removed, (part.start, part.stop)))]
        noted.append(own[_least(rank[own], min(lost, len(own)))])
    grow = np.unique(np.concatenate(noted))
    grow = grow[_least(rank[grow], len(grow))]
    kind = np.int32 if len(mask) <= np.iinfo(np.int32).max else np.int64
    return Evidence(mask.hash, still.astype(kind), grow.astype(kind))


def evidence_cost(problem: Problem, batch: int = BATCH) -> float:
    """Returns the multiply-adds that evidence takes: those of one dense gradient."""
    return dense_gradient_cost(problem, batch)


def _least(keys: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Returns where the ``count`` least keys are, in their order, then by index; NaN is the largest."""
    if count == 0:
        return np.empty(0, np.int64)
    last = np.partition(keys, count - 1)[count - 1]  # sorting all of them takes longer than their gradient
    candidates = np.arange(len(keys)) if np.isnan(last) else np.flatnonzero(keys <= last)
    least: NDArray[np.int64] = candidates[np.argsort(keys[candidates], kind="stable")[:count]]
    return least
