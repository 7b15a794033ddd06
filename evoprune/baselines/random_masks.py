"""Random masks, and the dense one."""

from __future__ import annotations

import numpy as np

from evoprune import seeds
from evoprune.baselines.scores import says_collapse, seed_of
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask
from evoprune.problem.problem import Problem


@says_collapse
def random(problem: Problem, *, sparsity: float, seed: int | None = None) -> Mask:
    """Returns a random mask with the same density in every layer.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        seed: Its stream ``masks`` is used; None takes the problem's.

    Raises:
        InputError: The sparsity is out of range or keeps nothing.
    """
    return random_mask(problem.shapes, sparsity, seeds.generator(seed_of(problem, seed), "masks"), "uniform")


@says_collapse
def erk(problem: Problem, *, sparsity: float, seed: int | None = None) -> Mask:
    """Returns a random mask with the layer densities of ERK (Evci et al. 2020, arXiv:1911.11134, section 3).

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        seed: Its stream ``masks`` is used; None takes the problem's.

    Raises:
        InputError: The sparsity is out of range or keeps nothing.
    """
    return random_mask(problem.shapes, sparsity, seeds.generator(seed_of(problem, seed), "masks"), "erk")


def dense(problem: Problem) -> Mask:
    """Returns the mask that keeps everything."""
    return Mask(np.ones(problem.prunable_count, bool), problem.shapes)
