"""A fitness term that uses W0: how far the survivors moved from their initial values, on average."""

import numpy as np

import evoprune as ep


@ep.register.fitness("distance")
def distance(outcome):
    w0 = outcome.problem.w0
    moved = []
    for k, mask in enumerate(outcome.population.masks):
        weights = outcome.population.survivor_values(k, outcome.population.weights).detach().cpu().numpy()
        moved.append(np.abs(weights - w0[mask.bits]).mean())
    return np.array(moved, np.float64)
