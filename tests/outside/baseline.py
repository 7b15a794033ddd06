"""A baseline: the weights of least initial magnitude survive, a foil for the magnitude baseline."""

import numpy as np

import evoprune as ep


@ep.register.baseline("least")
def least(problem, *, sparsity, seed):
    kept = round((1 - sparsity) * problem.prunable_count)
    bits = np.zeros(problem.prunable_count, bool)
    bits[np.argsort(np.abs(problem.w0), kind="stable")[:kept]] = True
    return ep.Mask(bits, problem.shapes)
