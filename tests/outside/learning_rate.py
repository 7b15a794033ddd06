"""A schedule of the learning rate with warm restarts (SGDR, Loshchilov and Hutter 2017): two halves of a cosine."""

import math

import evoprune as ep


@ep.register.learning_rate("restarts")
def restarts(progress, cycles=2):
    return 0.5 * (1 + math.cos(math.pi * (progress * cycles % 1)))
