"""Fitness terms: numbers measured on each trained network, and the fitness functions that are made of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.population import Population
from evoprune.errors import InputError
from evoprune.problem.problem import Problem
from evoprune.registry import Registry
from evoprune.training.loop import Trained
from evoprune.training.measure import Measured

Terms: TypeAlias = Mapping[str, float]

FAILED = -math.inf


@dataclass(frozen=True)
class Outcome(Trained):
    """All that is known after the brief training of K masks: a fitness term reads it, and leaves it as it is.

    Attributes:
        problem: The problem, with its recipe, data and ``w0``, the initial weights [n].
        population: The trained networks: ``population.masks`` are their masks, and
            ``population.survivor_values(k, population.weights)`` are the survivors' weights of individual k.
        gradients: For each of ``population.weights``, a tensor of its shape: the sum of |g| over the steps of the last epoch.
        train_loss: Mean training loss of the last epoch [K].
        epoch_costs: Multiply-adds of each epoch [epochs, K].
        optimizer: The optimiser that trained them.
        validation: Mean loss and accuracy on the validation set, ``validation.loss`` and ``validation.accuracy``, each [K], and
            the problem's metrics, such as ``validation.metrics["f1"]``.
    """

    problem: Problem
    validation: Measured


# A function of an outcome that returns a number for each individual, [K]; a larger one is fitter.
Term: TypeAlias = Callable[[Outcome], NDArray[np.float64]]


def call_term(term: Callable[..., Any], outcome: Outcome) -> Any:
    """Returns the values of a term; one that wants two arguments is also given the validation."""
    try:
        parameters = list(inspect.signature(term).parameters.values())
    except ValueError:  # a built-in function need not tell
        return term(outcome)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) > 1 and (positional[1].default is inspect.Parameter.empty or positional[1].name == "validation"):
        return term(outcome, outcome.validation)
    return term(outcome)


@dataclass(frozen=True)
class FitnessFunction:
    """A fitness of one or several terms.

    Attributes:
        name: Its name in the registry.
        terms: Names of terms, see :data:`TERMS`, or ``accuracy``, the validation accuracy. With one name the fitness is that
            term; with several it is their sum, each divided by the size of its mean over the initial population.
        sign: -1 for a term that is better when it is smaller.
    """

    name: str
    terms: tuple[str, ...]
    sign: float = 1.0

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
            value = self.sign * terms[self.terms[0]]
            return FAILED if math.isnan(value) else value  # a metric may not be defined
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


def magnitude(outcome: Outcome) -> NDArray[np.float64]:
    """Sum over the survivors of |w| at the end of the brief training (arXiv:2209.02201, as this project reads it)."""
    return survivor_sums(outcome.population, [weight.abs() for weight in outcome.population.weights])


def gradient(outcome: Outcome) -> NDArray[np.float64]:
    """Sum over the steps of the last epoch and over the survivors of |g| (arXiv:2209.02201, as this project reads it)."""
    return survivor_sums(outcome.population, outcome.gradients)


def loss(outcome: Outcome) -> NDArray[np.float64]:
    """Minus the validation loss: the control."""
    return -outcome.validation.loss


def sparsity(outcome: Outcome) -> NDArray[np.float64]:
    """Sparsity of the mask at the end: an objective beside others, with operators that let it vary."""
    return np.array([mask.sparsity for mask in outcome.population.masks])


_BUILT_IN: dict[str, Term] = {"magnitude": magnitude, "gradient": gradient, "loss": loss, "sparsity": sparsity}
BUILT_IN_TERMS = tuple(_BUILT_IN)
TERMS: Registry[Term] = Registry("fitness term", _BUILT_IN)
# Measured beside the terms, for classification only.
ACCURACY = "accuracy"
SPARSITY = "sparsity"
FITNESS: Registry[FitnessFunction] = Registry(
    "fitness",
    {
        "magnitude": FitnessFunction("magnitude", ("magnitude",)),
        "gradient": FitnessFunction("gradient", ("gradient",)),
        "combined": FitnessFunction("combined", ("magnitude", "gradient")),
        "loss": FitnessFunction("loss", ("loss",)),
        "accuracy": FitnessFunction("accuracy", (ACCURACY,)),
        "sparsity": FitnessFunction("sparsity", ("sparsity",)),
    },
)
