"""Final training: a chosen mask through the whole recipe, then the test set, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines import auto
from evoprune.engines.population import Population
from evoprune.engines.registry import ENGINES
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.training.dissipation import Dissipation, remover
from evoprune.training.loop import train
from evoprune.training.measure import measure
from evoprune.training.threads import torch_threads

HISTORY_COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "survivors", "multiply_adds")

# The final mask among the tensors of a checkpoint: no parameter has a slash in its name.
_BITS = "mask/bits"


@dataclass(frozen=True)
class FinalTraining:
    """A fully trained masked network.

    Attributes:
        mask: The mask at the end: the one that training began with, less what dissipated.
        history: After each epoch: epoch, mean training loss of its steps, validation loss and validation accuracy, survivors,
            and the multiply-adds on surviving weights so far.
        removals: What each removal did, see :func:`evoprune.training.dissipation.describe_removal`; empty without dissipation.
        engines: The engines that trained it, one after another.
        test_loss: Mean loss on the test set; NaN where training ended before the recipe's last epoch.
        test_accuracy: From 0 to 1; None where accuracy is not defined.
        seconds: Time it took.
        search_cost: Multiply-adds of a training before this one that found its mask; 0 for none.
        state: The network's ``state_dict``, removed weights exactly zero.
    """

    mask: Mask
    history: list[dict[str, float | None]]
    removals: list[dict[str, Any]]
    engines: list[str]
    test_loss: float
    test_accuracy: float | None
    seconds: float
    search_cost: float
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

    def divergence(self, tested: bool = True) -> str:
        """Says what is not finite at the end, and since when; empty where all is.

        Args:
            tested: The test set was measured.
        """
        last, weights = self.history[-1], (self.state[name] for name in self.mask.shapes)
        wrong = ["validation loss"] if last["validation_loss"] is None else []
        wrong += ["weights"] if not all(bool(weight.isfinite().all()) for weight in weights) else []
        wrong += ["test loss"] if tested and not np.isfinite(self.test_loss) else []
        if not wrong:
            return ""
        since = [row["epoch"] for row in self.history if None in (row["train_loss"], row["validation_loss"])]
        epoch = f" since epoch {int(since[0] or 0)} of {len(self.history)}" if since else ""
        return f"{', '.join(wrong)} not finite{epoch}"

    def cost(self, epochs: int) -> float:
        """Returns the multiply-adds on surviving weights of the first epochs."""
        return float(self.history[epochs - 1]["multiply_adds"] or 0.0) if epochs else 0.0

    def to_facts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns JSON values and tensors for a checkpoint."""
        names = ("history", "removals", "engines", "test_loss", "test_accuracy", "seconds", "search_cost")
        bits = torch.from_numpy(np.packbits(self.mask.bits))
        return {name: getattr(self, name) for name in names}, {**self.state, _BITS: bits}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], problem: Problem) -> FinalTraining:
        """Returns the training that JSON values (null for not finite) and tensors describe."""
        bits = np.unpackbits(tensors[_BITS].numpy(), count=problem.prunable_count).astype(bool)
        test_loss = np.nan if facts["test_loss"] is None else facts["test_loss"]
        state = {name: tensor for name, tensor in tensors.items() if name != _BITS}
        return cls(**{**facts, "test_loss": test_loss, "state": state, "mask": Mask(bits, problem.shapes)})


def train_fully(
    problem: Problem,
    mask: Mask,
    engine: str,
    seed: int,
    threads: int,
    on_epoch: Callable[[], None] | None = None,
    dissipation: Dissipation | None = None,
    epochs: int | None = None,
    free_after: int | None = None,
) -> FinalTraining:
    """Trains a masked network from W0 through all epochs of the recipe; see :func:`train_together`."""
    return train_together(problem, [mask], engine, seed, threads, on_epoch, dissipation, epochs, free_after)[0]


def train_together(
    problem: Problem,
    masks: Sequence[Mask],
    engine: str,
    seed: int,
    threads: int,
    on_epoch: Callable[[], None] | None = None,
    dissipation: Dissipation | None = None,
    epochs: int | None = None,
    free_after: int | None = None,
) -> list[FinalTraining]:
    """Trains masked networks from W0 through all epochs of the recipe, as one population.

    Args:
        problem: The problem.
        masks: The masks, at most as many as the engine takes.
        engine: Name of the engine; ``auto`` takes the one with the least measured cost.
        seed: Seeds batches and noise; the evaluation's seed makes the first epochs those of the brief training.
        threads: Threads that torch uses.
        on_epoch: Called after each epoch.
        dissipation: What is removed during the training; None for nothing.
        epochs: Ends after so many of the recipe's epochs, and leaves the test set alone; None trains all.
        free_after: From so many epochs on, the engine of the least measured cost is taken after each removal; None keeps it.

    Returns:
        One training a mask; their ``seconds`` share the time.
    """

    def engine_for(epoch: int, masks: Any) -> str | None:
        return None if free_after is None or epoch < free_after else auto.choose(problem, masks[0].sparsity, len(masks))

    start = time.perf_counter()
    histories: list[list[dict[str, float | None]]] = [[] for _ in masks]
    removals: list[list[dict[str, Any]]] = []
    engines: list[str] = []

    def after_epoch(epoch: int, population: Population, train_loss: NDArray[np.float64]) -> None:
        validation = measure(population, problem, "validation")
        for k, history in enumerate(histories):
            measured = (_finite(v[k]) for v in (train_loss, validation.loss, validation.accuracy))
            values = (float(epoch), *measured, float(population.masks[k].survivors), None)
            history.append(dict(zip(HISTORY_COLUMNS, values, strict=True)))
        name = next(name for name, entry in ENGINES.items() if isinstance(population, entry.kind))
        engines.extend([name] if name not in engines[-1:] else [])
        if on_epoch is not None:
            on_epoch()

    with torch_threads(threads):
        first = auto.choose(problem, masks[0].sparsity, len(masks)) if engine == "auto" else engine
        trained = train(
            ENGINES[first].build(problem, masks),
            problem,
            problem.recipe.epochs if epochs is None else epochs,
            seed,
            after_epoch,
            None if dissipation is None else remover(problem, dissipation, seed, removals),
            engine_for,
        )
        test = measure(trained.population, problem, "test") if epochs is None else None
    seconds = (time.perf_counter() - start) / len(masks)
    for k, history in enumerate(histories):
        for row, cost in zip(history, np.cumsum(trained.epoch_costs[:, k]).tolist(), strict=True):
            row["multiply_adds"] = cost
    return [
        FinalTraining(
            mask=trained.population.masks[k],
            history=histories[k],
            removals=[individuals[k] for individuals in removals],
            engines=engines,
            test_loss=np.nan if test is None else float(test.loss[k]),
            test_accuracy=None if test is None else _finite(test.accuracy[k]),
            seconds=seconds,
            search_cost=0.0,
            state=trained.population.state(k),
        )
        for k in range(len(masks))
    ]


def train_from_w0(
    problem: Problem,
    mask: Mask,
    engine: str,
    orders: tuple[int, int],
    threads: int,
    on_epoch: Callable[[], None] | None = None,
    dissipation: Dissipation | None = None,
    free_after: int | None = None,
) -> FinalTraining:
    """Lets a mask dissipate, and trains what is left from W0 in another order of the batches: retraining, for comparison.

    Args:
        problem: The problem.
        mask: The mask to begin with.
        engine: See :func:`train_fully`.
        orders: Seeds of the batches while it dissipates, and of the training from W0.
        threads: Threads that torch uses.
        on_epoch: Called after each epoch.
        dissipation: What is removed; None for nothing.
        free_after: See :func:`train_fully`.

    Returns:
        The second training; the first where it diverged.
    """
    if dissipation is None:
        return train_fully(problem, mask, engine, orders[1], threads, on_epoch)
    last = dissipation.last
    first = train_fully(problem, mask, engine, orders[0], threads, on_epoch, dissipation, last, free_after)
    if first.divergence(tested=False):
        return first  # what is left of its mask means nothing
    second = train_fully(problem, first.mask, engine if free_after is None else "auto", orders[1], threads, on_epoch)
    return replace(second, removals=first.removals, seconds=first.seconds + second.seconds, search_cost=first.cost(last))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
