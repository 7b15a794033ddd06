"""Cost: multiply-adds on surviving weights."""

from __future__ import annotations

import numpy as np

from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem


def multiply_adds(problem: Problem, mask: Mask) -> float:
    """Returns the multiply-adds on surviving weights of one epoch of training.

    Every use of a weight by an example counts three times: forward, gradient of the inputs, gradient of the weight (as is
    usual, also in the first layer, whose inputs need no gradient). Biases, activations and the optimiser are not counted.
    """
    counts = (np.count_nonzero(layer) * problem.uses[name] for name, layer in mask.layers.items())
    return 3.0 * float(sum(counts)) * len(problem.part("train")[0])
