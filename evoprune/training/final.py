"""Final training: a chosen mask through the whole recipe, then the test set, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines import auto
from evoprune.engines.population import Population
from evoprune.engines.registry import ENGINES
from evoprune.engines.snapshot import begin
from evoprune.masks.mask import Mask
from evoprune.masks.snapshot import Snapshot
from evoprune.problem.problem import Problem
from evoprune.training.history import Row, enter_costs, finite, history_rows
from evoprune.training.loop import train
from evoprune.training.measure import measure
from evoprune.training.schedule import Schedule
from evoprune.training.stopping import EarlyStopping
from evoprune.training.threads import torch_threads

# The final mask among the tensors of a checkpoint: no parameter has a slash in its name.
_BITS = "mask/bits"


@dataclass(frozen=True)
class FinalTraining:
    """A fully trained masked network.

    Attributes:
        mask: The mask at the end; a schedule may have changed the one that training began with.
        history: After each epoch: epoch, mean training loss of its steps, validation loss and validation accuracy, survivors,
            the multiply-adds on surviving weights so far, and the problem's metrics as ``validation_NAME``.
        removals: The log that the schedule kept of this mask, such as
            :func:`evoprune.training.dissipation.describe_removal` of each removal; empty without a schedule.
        engines: The engines that trained it, one after another.
        test_loss: Mean loss on the test set; NaN if training ended before the recipe's last epoch.
        test_accuracy: From 0 to 1; None if accuracy is not defined.
        seconds: Time it took.
        search_cost: Multiply-adds of a training before this one that found its mask; 0 for none.
        state: The network's ``state_dict``, removed weights exactly zero.
        test_metrics: The problem's metrics on the test set by name; None where they are not finite.
        best_epoch: With early stopping, the epoch whose network this is; None for the last epoch's.
        stopped_epoch: The epoch after which training stopped early; None if it did not.
        confusion: Number of test examples of each class (rows) with each prediction (columns); empty where the targets are no
            classes, or too many.
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
    test_metrics: dict[str, float | None] = field(default_factory=dict)
    best_epoch: int | None = None
    stopped_epoch: int | None = None
    confusion: list[list[int]] = field(default_factory=list)

    @property
    def row(self) -> Row:
        """The row of the history of the network's epoch: the last one, or the best with early stopping."""
        return next((row for row in self.history if row["epoch"] == self.best_epoch), self.history[-1])

    @property
    def epochs(self) -> int:
        """Number of epochs that were trained."""
        return int(self.history[-1]["epoch"] or 0)

    @property
    def validation_loss(self) -> float:
        """Validation loss after the network's epoch."""
        loss = self.row["validation_loss"]
        return np.nan if loss is None else loss

    @property
    def validation_accuracy(self) -> float | None:
        """Validation accuracy after the network's epoch."""
        return self.row["validation_accuracy"]

    def divergence(self, tested: bool = True) -> str:
        """Names the values that are not finite at the end, and since when; empty if all are finite.

        Args:
            tested: The test set was measured.
        """
        last, weights = self.row, (self.state[name] for name in self.mask.shapes)
        wrong = ["validation loss"] if last["validation_loss"] is None else []
        wrong += ["weights"] if not all(bool(weight.isfinite().all()) for weight in weights) else []
        wrong += ["test loss"] if tested and not np.isfinite(self.test_loss) else []
        if not wrong:
            return ""
        since = [row["epoch"] for row in self.history if None in (row["train_loss"], row["validation_loss"])]
        epoch = f" since epoch {int(since[0] or 0)} of {len(self.history)}" if since else ""
        return f"{', '.join(wrong)} not finite{epoch}"

    def cost(self, epochs: int) -> float:
        """Returns the multiply-adds on surviving weights of the first epochs, those after an early stop not among them."""
        return float(self.history[min(epochs, len(self.history)) - 1]["multiply_adds"] or 0.0) if epochs else 0.0

    def to_facts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns JSON values and tensors for a checkpoint."""
        names = ("history", "removals", "engines", "test_loss", "test_accuracy", "seconds", "search_cost")
        later = ("test_metrics", "best_epoch", "stopped_epoch", "confusion")  # left out where they say nothing
        bits = torch.from_numpy(np.packbits(self.mask.bits))
        facts = {name: value for name in (*names, *later) if (value := getattr(self, name)) or name in names}
        return facts, {**self.state, _BITS: bits}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], problem: Problem) -> FinalTraining:
        """Returns the training that JSON values (null for not finite) and tensors describe."""
        mask = Mask.from_packed(tensors[_BITS].numpy(), problem.shapes)
        test_loss = np.nan if facts["test_loss"] is None else facts["test_loss"]
        state = {name: tensor for name, tensor in tensors.items() if name != _BITS}
        return cls(**{**facts, "test_loss": test_loss, "state": state, "mask": mask})


@dataclass(frozen=True)
class Training:
    """How masks are trained.

    Attributes:
        engine: Name of the engine; ``auto`` takes the one with the least measured cost.
        seed: Seeds batches and noise; the evaluation's seed makes the first epochs those of the brief training.
        threads: Threads that torch uses.
        on_epoch: Called after each epoch.
        schedule: Makes the schedule that changes the masks during one training; None keeps the masks.
        epochs: Ends after so many of the recipe's epochs, and leaves the test set alone; None trains all.
        free_after: From so many epochs on, the engine of the least measured cost is taken after each change of the masks; None
            keeps it.
        snapshots: The state from which each network continues, all after as many epochs; none for W0.
    """

    engine: str
    seed: int
    threads: int = 1
    on_epoch: Callable[[], None] | None = None
    schedule: Callable[[], Schedule] | None = None
    epochs: int | None = None
    free_after: int | None = None
    snapshots: Sequence[Snapshot] = ()


def train_fully(problem: Problem, mask: Mask, training: Training) -> FinalTraining:
    """Trains a masked network from W0 through all epochs of the recipe; see :func:`train_together`."""
    return train_together(problem, [mask], training)[0]


def train_together(problem: Problem, masks: Sequence[Mask], training: Training) -> list[FinalTraining]:
    """Trains masked networks through all epochs of the recipe, from W0 or from snapshots, as one population.

    Args:
        problem: The problem.
        masks: The masks, at most as many as the engine takes.
        training: How they are trained.

    Returns:
        One training a mask; their ``seconds`` share the time.
    """
    start = time.perf_counter()
    keeper = _Keeper(problem, training, len(masks))
    schedule = None if training.schedule is None else training.schedule()
    epochs = problem.recipe.epochs if training.epochs is None else training.epochs
    if training.epochs is None and problem.recipe.stop_patience is not None:
        keeper.stopping = EarlyStopping(problem, len(masks), schedule)
    with torch_threads(training.threads):
        first = auto.choose(problem, masks[0].sparsity, len(masks)) if training.engine == "auto" else training.engine
        begun = begin(ENGINES[first], problem, masks, training.snapshots)
        rest = epochs - begun.epochs
        trained = train(begun, problem, rest, training.seed, keeper.after_epoch, schedule, keeper.engine_for)
        kept = keeper.best_of(trained.population)
        test = measure(kept, problem, "test") if training.epochs is None else None
    seconds = (time.perf_counter() - start) / len(masks)
    log = getattr(schedule, "log", [])
    for k, history in enumerate(keeper.histories):
        stopped = keeper.epochs_of(k).get("stopped_epoch")
        enter_costs(history, trained.epoch_costs[: None if stopped is None else stopped - begun.epochs, k].tolist())
    return [
        FinalTraining(
            mask=kept.masks[k],
            history=keeper.histories[k],
            removals=[individuals[k] for individuals in log],
            engines=keeper.engines or [first],
            test_loss=np.nan if test is None else float(test.loss[k]),
            test_accuracy=None if test is None else finite(test.accuracy[k]),
            seconds=seconds,
            search_cost=0.0,
            state=kept.state(k),
            test_metrics={} if test is None else {name: finite(values[k]) for name, values in test.metrics.items()},
            confusion=[] if test is None or test.confusion is None else test.confusion[k].tolist(),
            **keeper.epochs_of(k),
        )
        for k in range(len(masks))
    ]


def train_from_w0(problem: Problem, mask: Mask, training: Training, restart_seed: int) -> FinalTraining:
    """Lets a schedule change a mask, and trains the mask at its end from W0 in another order of the batches, for comparison.

    Args:
        problem: The problem.
        mask: The mask to begin with.
        training: How the mask is changed: under its schedule, for its ``epochs``. Without a schedule there is no such training.
        restart_seed: Seeds the batches of the training from W0.

    Returns:
        The second training; the first if it diverged.
    """
    again = replace(training, seed=restart_seed, schedule=None, epochs=None, free_after=None)
    if training.schedule is None:
        return train_fully(problem, mask, again)
    epochs = problem.recipe.epochs if training.epochs is None else training.epochs
    first = train_fully(problem, mask, replace(training, epochs=epochs))
    if first.divergence(tested=False):
        return first  # its mask means nothing
    engine = training.engine if training.free_after is None else "auto"
    second = train_fully(problem, first.mask, replace(again, engine=engine))
    return replace(second, removals=first.removals, seconds=first.seconds + second.seconds, search_cost=first.cost(epochs))


class _Keeper:
    """Keeps the history of a training, chooses its engine, and stops it early.

    Attributes:
        histories: For each individual, a row for each epoch until it stopped.
        engines: The engines that trained it, one after another.
        stopping: Stops it early; None trains all epochs.
    """

    def __init__(self, problem: Problem, training: Training, size: int) -> None:
        self._problem, self._training = problem, training
        self.histories: list[list[Row]] = [[dict(row) for row in snapshot.history] for snapshot in training.snapshots]
        self.histories = self.histories or [[] for _ in range(size)]
        self.engines: list[str] = []
        self.stopping: EarlyStopping | None = None

    def engine_for(self, epoch: int, masks: Sequence[Mask]) -> str | None:
        """Returns the engine to continue with; None for the same."""
        free_after = self._training.free_after
        if free_after is None or epoch < free_after:
            return None
        return auto.choose(self._problem, masks[0].sparsity, len(masks))

    def after_epoch(self, epoch: int, population: Population, train_loss: NDArray[np.float64]) -> bool:
        """Adds a row to each history, and returns whether training ends."""
        rows = history_rows(epoch, population, train_loss, measure(population, self._problem, "validation"))
        for k, history in enumerate(self.histories):
            if self.stopping is None or self.stopping.stopped[k] is None:
                history.append(rows[k])
        name = next(name for name, engine in ENGINES.items() if type(population) is engine.kind)
        self.engines.extend([name] if name not in self.engines[-1:] else [])
        if self._training.on_epoch is not None:
            self._training.on_epoch()
        return self.stopping is not None and self.stopping.after_epoch(epoch, population, rows)

    def best_of(self, population: Population) -> Population:
        """Returns the population as each individual was after its best epoch; the population itself without early stopping."""
        best = [] if self.stopping is None else [each for each in self.stopping.best if each is not None]
        if not best:
            return population
        kept = ENGINES[self.engines[-1]].build(self._problem, [each.mask for each in best])
        kept.load([each.state for each in best])
        return kept

    def epochs_of(self, k: int) -> dict[str, int | None]:
        """Returns the best epoch of an individual, and the one after which it stopped; empty without early stopping."""
        best = None if self.stopping is None else self.stopping.best[k]
        if best is None or self.stopping is None:
            return {}
        return {"best_epoch": best.epoch, "stopped_epoch": self.stopping.stopped[k]}
