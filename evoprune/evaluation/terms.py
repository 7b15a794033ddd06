"""Fitness terms: numbers measured on each trained network, and the fitness functions that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.population import Population
from evoprune.errors import InputError
from evoprune.training.loop import Trained
from evoprune.training.measure import Measured

Term: TypeAlias = Callable[[Trained, Measured], NDArray[np.float64]]
Terms: TypeAlias = Mapping[str, float]

FAILED = -math.inf


@dataclass(frozen=True)
class FitnessFunction:
    """A fitness of one or several terms.

    Attributes:
        name: Its name in the registry.
        terms: Of :data:`TERMS`, or ``accuracy``, the validation accuracy. One: the fitness is the term. Several: their sum,
            each divided by the size of its mean over the initial population.
    """

    name: str
    terms: tuple[str, ...]

    @property
    def needs_calibration(self) -> bool:
        """Whether divisors are needed: with several terms."""
        return len(self.terms) > 1

    def calibrate(self, population: Sequence[Terms]) -> dict[str, float]:
        """Returns the divisors: the absolute mean of each term over an initial population, all of it finite; 1 for zero."""
        if not self.needs_calibration:
            return {}
        return {term: abs(float(np.mean([terms[term] for terms in population]))) or 1.0 for term in self.terms}

    def value(self, terms: Terms, divisors: Mapping[str, float]) -> float:
        """Returns the fitness of finite terms.

        Raises:
            InputError: Several terms, and no divisors yet.
        """
        if not self.needs_calibration:
            return terms[self.terms[0]]
        self.require_divisors(divisors)
        return sum(terms[term] / divisors[term] for term in self.terms)

    def require_divisors(self, divisors: Mapping[str, float]) -> None:
        """Checks that the fitness was calibrated, if it needs to be.

        Raises:
            InputError: It was not.
        """
        if self.needs_calibration and not divisors:
            raise InputError(
                f"fitness {self.name!r} is relative to an initial population, and none was evaluated yet; call "
                f"evaluator.evaluate(population) first, or evaluate with toolbox.map."
            )


def survivor_sums(population: Population, tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    """Sums tensors shaped like ``population.weights`` over each individual's survivors.

    Returns:
        Sums [K], in float64; neither the number of threads nor the other individuals change their bits.
    """
    values = (population.survivor_values(k, tensors) for k in range(population.size))
    return np.array([value.cpu().numpy().astype(np.float64).sum() for value in values])


def magnitude(trained: Trained, validation: Measured) -> NDArray[np.float64]:
    """Sum over the survivors of |w| at the end of the brief training (arXiv:2209.02201, as this project reads it)."""
    return survivor_sums(trained.population, [weight.abs() for weight in trained.population.weights])


def gradient(trained: Trained, validation: Measured) -> NDArray[np.float64]:
    """Sum over the steps of the last epoch and over the survivors of |g| (arXiv:2209.02201, as this project reads it)."""
    return survivor_sums(trained.population, trained.gradients)


def loss(trained: Trained, validation: Measured) -> NDArray[np.float64]:
    """Minus the validation loss: the control."""
    return -validation.loss


def sparsity(trained: Trained, validation: Measured) -> NDArray[np.float64]:
    """Sparsity of the mask that is left: an objective beside others, where operators let it vary."""
    return np.array([mask.sparsity for mask in trained.population.masks])


TERMS: dict[str, Term] = {"magnitude": magnitude, "gradient": gradient, "loss": loss, "sparsity": sparsity}
# Measured beside the terms, for classification only.
ACCURACY = "accuracy"
SPARSITY = "sparsity"
FITNESS: dict[str, FitnessFunction] = {
    "magnitude": FitnessFunction("magnitude", ("magnitude",)),
    "gradient": FitnessFunction("gradient", ("gradient",)),
    "combined": FitnessFunction("combined", ("magnitude", "gradient")),
    "loss": FitnessFunction("loss", ("loss",)),
    "accuracy": FitnessFunction("accuracy", (ACCURACY,)),
    "sparsity": FitnessFunction("sparsity", ("sparsity",)),
}


# columns of evaluations.csv beside the terms
RESERVED = (
    "gen", "mask", "seed", "validation_loss", "validation_accuracy", "status", "note", "multiply_adds", "worker", "seconds",
    "layers",
)  # fmt: skip
BUILT_IN_TERMS = tuple(TERMS)
BUILT_IN = frozenset({*TERMS, *FITNESS})
