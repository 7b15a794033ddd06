"""A schedule as a user writes it, outside the package: RigL's step (Evci et al. 2020, arXiv:1911.11134)."""

from collections.abc import Sequence

import numpy as np

import evoprune as ep
from evoprune.training.schedule import Moment


class RigL:
    """Every few steps, drops the survivors of the least |w|, and grows as many weights of the largest dense gradient."""

    def __init__(self, problem: ep.Problem, sparsity: float, every: int | None = 7, fraction: float = 0.2) -> None:
        self.first_sparsity, self.every, self.fraction = sparsity, every, fraction

    def masks_after(self, moment: Moment) -> Sequence[ep.Mask]:
        masks = []
        for k, mask in enumerate(moment.population.masks):
            alive, removed = np.flatnonzero(mask.bits), np.flatnonzero(~mask.bits)
            count = round(self.fraction * len(alive))
            bits = mask.bits.copy()
            bits[alive[np.argsort(np.abs(moment.weights(k))[alive], kind="stable")[:count]]] = False
            bits[removed[np.argsort(-moment.gradients(k)[removed], kind="stable")[:count]]] = True
            masks.append(ep.Mask(bits, mask.shapes))
        return masks
