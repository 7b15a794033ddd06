"""Fitness: the worth of a mask after its brief training. Larger is fitter.

A *term* is a number measured on each trained network; a *fitness* is made of terms. Workers return the raw terms; the main
process makes the fitness of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from evoprune.errors import InputError, look_up
from evoprune.evaluation.terms import ACCURACY, FITNESS, TERMS, FitnessFunction, Term

# Columns of evaluations.csv and layers.csv beside the terms.
RESERVED = (
    "gen", "mask", "seed", "validation_loss", "validation_accuracy", "status", "note", "multiply_adds", "worker", "seconds",
    "layers",
)  # fmt: skip


def register_fitness(name: str, made_of: Term | Sequence[str]) -> None:
    """Adds a fitness by name, for ``fitness=`` and ``--fitness``.

    ::

        def moved(outcome):
            population, w0 = outcome.population, outcome.problem.w0
            weights = [population.survivor_values(k, population.weights).numpy() for k in range(population.size)]
            return np.array([np.abs(w - w0[mask.bits]).sum() for w, mask in zip(weights, population.masks)])

        ep.register_fitness("moved", moved)
        ep.register_fitness("moved-and-loss", ["moved", "loss"])

    Args:
        name: The name.
        made_of: A term: a function of an :class:`evoprune.evaluation.terms.Outcome` that returns values [K], larger is fitter;
            one of two arguments is also given ``outcome.validation``. Or names of terms, whose values are added, each divided
            by the size of its mean over the initial population.

    Raises:
        InputError: The name is built in, or stands for something else; or a term is unknown.
    """
    if name in RESERVED:
        raise InputError(f"fitness {name!r} is a column of the records; choose another name.")
    terms = (name,) if callable(made_of) else tuple(made_of)
    if not callable(made_of):
        for term in terms:
            look_up("fitness term", term, {**TERMS, ACCURACY: None})
    FITNESS.register(name, FitnessFunction(name, terms))
    if callable(made_of):
        TERMS.register(name, made_of)
