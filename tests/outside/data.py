"""A data set: points of the plane, and the quadrant in which they lie."""

import numpy as np

import evoprune as ep


@ep.register.data("quadrants")
def quadrants():
    points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    return ep.Data(train=(points, 2 * (points[:, 0] > 0) + (points[:, 1] > 0)))
