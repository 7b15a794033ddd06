"""A crossover: the first layer of one parent, the other layers of the other, if both keep as many weights there."""

import evoprune as ep


@ep.register.crossover("calm")
def calm(a, b, *, rng):
    return ep.operators.uniform(a, b, rng=rng) if rng.random() < 0.5 else (a, b)
