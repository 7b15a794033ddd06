"""A mutation: survivors of the last layer change places with removed weights of the same layer."""

import evoprune as ep


@ep.register.mutation("gentle")
def gentle(mask, *, fraction, rng):
    return ep.operators.swap(mask, fraction=fraction / 2, rng=rng, scope="layer")
