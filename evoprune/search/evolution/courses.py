"""Courses of gradual pruning as individuals: their genes, the masks that they end with, and their variation by DEAP."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from deap import algorithms, base, tools

from evoprune import seeds
from evoprune.masks.mask import Fitness, Mask
from evoprune.problem.problem import Problem
from evoprune.training.final import Training, train_fully
from evoprune.training.gradual import Gradual, GradualOptions

# Bounds of the genes: binary logarithm of the factor of the weight decay, the part of the recipe in which weights are removed,
# and binary logarithm of a layer's factor; with the sizes of a mutation's steps.
DECAY, UNTIL, LAYER = (-3.0, 6.0), (0.1, 0.9), (-4.0, 4.0)
STEPS = (1.0, 0.1, 0.25)


@dataclass(frozen=True)
class Genes:
    """The genes of a course.

    Attributes:
        decay_factor: Factor of the recipe's weight decay while the network is pruned.
        prune_until: Part of the recipe's epochs in which the sparsity rises.
        layer_factors: A factor for each layer, by which its |w| are multiplied before they are compared.
    """

    decay_factor: float
    prune_until: float
    layer_factors: tuple[float, ...]


class Course(list[float]):
    """A course of gradual pruning as DEAP's individual: its genes as numbers, and the mask that it begins with.

    Args:
        numbers: Binary logarithm of the factor of the weight decay; the part of the recipe in which weights are removed; and
            for each layer the binary logarithm of its factor.
        start: The mask that it begins with.

    Attributes:
        fitness: That of its mask; not valid before it was evaluated.
        start: The mask that it begins with.
        mask: The mask that it ends with; None before it was trained, or if training diverged.
    """

    def __init__(self, numbers: Sequence[float], start: Mask) -> None:
        super().__init__(numbers)
        self.fitness, self.start = Fitness(), start
        self.mask: Mask | None = None

    @property
    def genes(self) -> Genes:
        """The numbers as genes, within their bounds."""
        decay, until, *layers = self
        return Genes(
            2.0 ** float(np.clip(decay, *DECAY)),
            float(np.clip(until, *UNTIL)),
            tuple(2.0 ** float(np.clip(layer, *LAYER)) for layer in layers),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Course:
        twin = Course(self, self.start)
        twin.mask, twin.fitness.values = self.mask, self.fitness.values
        return twin


def make_operators(step: float) -> base.Toolbox:
    """Returns a toolbox with DEAP's operators on lists of numbers: ``mate`` and ``mutate``.

    Args:
        step: Factor of the size of a mutation's steps.
    """
    toolbox = base.Toolbox()
    toolbox.register("mate", tools.cxUniform, indpb=0.5)
    toolbox.register("mutate", _mutate, step=step)
    return toolbox


def _mutate(course: Course, *, step: float) -> tuple[Course]:
    """Changes some genes by a normal step, at least one."""
    sigma = [STEPS[0], STEPS[1], *[STEPS[2]] * (len(course) - 2)]
    chosen = random.randrange(len(course))
    course[chosen] += random.gauss(0, step * sigma[chosen])
    mutated: tuple[Course] = tools.mutGaussian(course, 0.0, [step * each for each in sigma], 1 / len(course))
    return mutated


def breed(
    population: Sequence[Course], operators: base.Toolbox, count: int, pairs: float, stream: random.Random
) -> list[Course]:
    """Returns children by DEAP's ``varOr``: each of two parents with some probability, else a mutant.

    Args:
        population: The parents.
        operators: The operators, see :func:`make_operators`.
        count: Number of children.
        pairs: Probability that a child has two parents.
        stream: Source of the draws.
    """
    with seeds.global_random(stream):
        two = pairs if len(population) > 1 else 0.0
        return list(algorithms.varOr(list(population), operators, count, two, 1 - two))


def train_course(
    problem: Problem, genes: Genes, start: Mask, sparsity: float, engine: str, order: int, threads: int
) -> tuple[dict[str, Any], bytes]:
    """Trains a network under a course of gradual pruning, until its last removal.

    Gradual magnitude pruning (Zhu and Gupta 2017, arXiv:1710.01878), with a stronger or weaker weight decay than the recipe's,
    and magnitudes that are compared between layers with factors.

    Args:
        problem: The problem.
        genes: The genes.
        start: The mask that training begins with.
        sparsity: Sparsity at the end.
        engine: Name of the engine, or ``auto``.
        order: Seeds batches and noise.
        threads: Threads that torch uses.

    Returns:
        As JSON values the genes, ``epochs``, ``cost`` in multiply-adds, ``seconds``, and ``divergence``, empty for none; the
        mask's packed bits.
    """
    recipe = problem.recipe
    pruned = problem.with_recipe(replace(recipe, weight_decay=recipe.weight_decay * genes.decay_factor))
    options = GradualOptions(start.sparsity, genes.prune_until, layer_factors=genes.layer_factors)

    def make() -> Gradual:
        return Gradual(pruned, sparsity, options)

    epochs = make().last
    free_after = 0 if engine == "auto" else None
    training = train_fully(pruned, start, Training(engine, order, threads, None, make, epochs, free_after))
    facts = {
        "genes": asdict(genes),
        "epochs": epochs,
        "cost": training.cost(epochs),
        "seconds": training.seconds,
        "divergence": training.divergence(tested=False),
    }
    return facts, np.packbits(training.mask.bits).tobytes()
