"""A schedule of masks that regrows (RigL, Evci et al. 2020): drop the least |w|, grow the largest dense gradients."""

import numpy as np

import evoprune as ep


class Regrow:
    every = None  # at the end of each epoch

    def __init__(self, sparsity, fraction=0.2):
        self.first_sparsity, self.fraction = sparsity, fraction

    def masks_after(self, moment):
        if moment.epoch >= moment.problem.recipe.epochs:
            return None
        masks = []
        for k, mask in enumerate(moment.population.masks):
            weights = moment.population.survivor_values(k, moment.population.weights).detach().cpu().numpy()
            survivors, removed = np.flatnonzero(mask.bits), np.flatnonzero(~mask.bits)
            count = min(round(self.fraction * len(survivors)), len(removed))
            bits = mask.bits.copy()
            bits[survivors[np.argsort(np.abs(weights), kind="stable")[:count]]] = False
            bits[removed[np.argsort(-moment.gradients(k)[removed], kind="stable")[:count]]] = True
            masks.append(ep.Mask(bits, mask.shapes))
        return masks


@ep.register.schedule("regrow")
def regrow(problem, sparsity):
    return Regrow(sparsity)
