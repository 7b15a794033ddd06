"""Trainings under schedules of masks."""

from typing import Any

import numpy as np

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.training.loop import train
from evoprune.training.schedule import Moment, Schedule, initial_mask


def problem_of(epochs: int = 2, optimizer: str = "SGD", dtype: str = "float64") -> ep.Problem:
    """Returns a perceptron on the digits, with 20 steps an epoch."""
    recipe = ep.Recipe(epochs=epochs, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 0.005)
    return ep.Problem("mlp", "digits", recipe, widths=(20, 10), dtype=dtype)


def course_of(problem: ep.Problem, schedule: Any, engine: str = "sparse") -> list[dict[str, Any]]:
    """Trains through the recipe; returns the changes of the mask."""
    population = ENGINES[engine].build(problem, [initial_mask(schedule, problem, 0)])
    train(population, problem, problem.recipe.epochs, 0, schedule=schedule)
    return [change for (change,) in schedule.log]


class Watched:
    """A schedule, and the masks and weights before each change and after it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.every = schedule, schedule.every
        self.seen: list[tuple[ep.Mask, np.ndarray, ep.Mask]] = []

    def masks_after(self, moment: Moment) -> Any:
        masks = self.schedule.masks_after(moment)
        if masks is not None:
            self.seen.append((moment.population.masks[0], moment.weights(0), masks[0]))
        return masks


def watched(problem: ep.Problem, schedule: Any, engine: str = "sparse") -> list[tuple[ep.Mask, np.ndarray, ep.Mask]]:
    """Trains through the recipe; returns for each change the mask and weights before it, and the mask after it."""
    population = ENGINES[engine].build(problem, [initial_mask(schedule, problem, 0)])
    watching = Watched(schedule)
    train(population, problem, problem.recipe.epochs, 0, schedule=watching)
    return watching.seen
