"""Sanity controls of a mask: shuffled within layers, or with redrawn initial weights."""

from __future__ import annotations

import numpy as np

from evoprune import seeds
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem


def shuffled(mask: Mask, rng: np.random.Generator | int) -> Mask:
    """Returns the mask permuted within each layer, the layers' counts kept.

    This sanity check shows for many methods that they choose the number of weights to keep in each layer, not which ones (Su
    et al. 2020, arXiv:2009.11094; Frankle et al. 2021, arXiv:2009.08576).

    Args:
        mask: The mask, which stays as it is.
        rng: Source of the draws, or a seed, whose stream ``variation`` is used.

    Raises:
        InputError: A seed that is not a non-negative integer.
    """
    rng = rng if isinstance(rng, np.random.Generator) else seeds.generator(rng, "variation")
    return Mask.from_layers({name: rng.permutation(layer.ravel()).reshape(layer.shape) for name, layer in mask.layers.items()})


def redrawn(problem: Problem, seed: int) -> Problem:
    """Returns the problem with other initial weights, and the same split, batches, recipe and all else.

    A sanity check: a mask that was found for one W0 is trained from another (Frankle et al. 2021, arXiv:2009.08576; the "random
    reinitialization" of Frankle and Carbin 2019).

    Args:
        problem: The problem, which stays as it is.
        seed: Seeds the other W0; see :meth:`evoprune.problem.problem.Problem.redrawn`.

    Raises:
        InputError: W0 comes out as it was.
    """
    return problem.redrawn(seed)
