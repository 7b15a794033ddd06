"""Fitness: what a brief training says of a mask. Larger is fitter.

A *term* is a number measured on each trained network; a *fitness* is made of terms. Workers return the raw terms; the origin
makes the fitness of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from evoprune.errors import InputError, look_up
from evoprune.evaluation.terms import ACCURACY, BUILT_IN, FITNESS, RESERVED, TERMS, FitnessFunction, Term


def register_fitness(name: str, made_of: Term | Sequence[str]) -> None:
    """Adds a fitness of the user's own, by name.

    Call it where every worker comes by: at the top of the script, not under ``if __name__ == "__main__"``.

    Args:
        name: The name, for ``fitness=`` and ``--fitness``.
        made_of: A function (trained, validation) -> values [K], larger is fitter; or names of terms, whose values are
            added, each divided by the size of its mean over the initial population.

    Raises:
        InputError: The name is that of a built-in one, or a term is unknown.
    """
    if name in BUILT_IN or name in RESERVED:
        raise InputError(f"fitness {name!r} is built in, or a column of the records; choose another name.")
    if callable(made_of):
        TERMS[name] = made_of
        made_of = (name,)
    for term in made_of:
        look_up("fitness term", term, {**TERMS, ACCURACY: None})
    FITNESS[name] = FitnessFunction(name, tuple(made_of))
