"""Final training: a chosen mask through the whole recipe, then the test set, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines import ENGINES
from evoprune.evaluate import torch_threads
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.train import measure, train

HISTORY_COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class FinalTraining:
    """A fully trained masked network.

    Attributes:
        history: After each epoch: epoch, mean training loss of its steps, validation loss and validation accuracy.
        test_loss: Mean loss on the test set.
        test_accuracy: From 0 to 1; None where accuracy is not defined.
        seconds: Time it took.
        state: The network's ``state_dict``, removed weights exactly zero.
    """

    history: list[dict[str, float | None]]
    test_loss: float
    test_accuracy: float | None
    seconds: float
    state: dict[str, Tensor]

    @property
    def validation_loss(self) -> float:
        """Validation loss after the last epoch."""
        loss = self.history[-1]["validation_loss"]
        return np.nan if loss is None else loss

    @property
    def validation_accuracy(self) -> float | None:
        """Validation accuracy after the last epoch."""
        return self.history[-1]["validation_accuracy"]

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], state: dict[str, Tensor]) -> FinalTraining:
        """Returns the training that JSON values (null for not finite) and tensors describe."""
        test_loss = np.nan if facts["test_loss"] is None else facts["test_loss"]
        return cls(**{**facts, "test_loss": test_loss, "state": state})


def train_fully(
    problem: Problem,
    mask: Mask,
    engine: str,
    seed: int,
    threads: int,
    on_epoch: Callable[[], None] | None = None,
) -> FinalTraining:
    """Trains a masked network from W0 through all epochs of the recipe.

    Args:
        problem: The problem.
        mask: The mask.
        engine: Name of the engine.
        seed: Seeds batches and noise; the evaluation's seed makes the first epochs those of the brief training.
        threads: Threads that torch uses.
        on_epoch: Called after each epoch.
    """
    start = time.perf_counter()
    with torch_threads(threads):
        population = ENGINES[engine].build(problem, [mask])
        history: list[dict[str, float | None]] = []

        def after_epoch(epoch: int, train_loss: NDArray[np.float64]) -> None:
            validation = measure(population, problem, "validation")
            values = (float(epoch), *(_finite(v[0]) for v in (train_loss, validation.loss, validation.accuracy)))
            history.append(dict(zip(HISTORY_COLUMNS, values, strict=True)))
            if on_epoch is not None:
                on_epoch()

        train(population, problem, problem.recipe.epochs, seed, after_epoch)
        test = measure(population, problem, "test")
    return FinalTraining(
        history=history,
        test_loss=float(test.loss[0]),
        test_accuracy=_finite(test.accuracy[0]),
        seconds=time.perf_counter() - start,
        state=population.state(0),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
