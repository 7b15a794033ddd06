"""Recipe: how a network is trained."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from evoprune.errors import InputError, look_up
from evoprune.options import check_sizes

# Examples in a batch when networks are measured, not trained.
MEASURE_BATCH = 1000

# Fraction of the learning rate at a progress in [0, 1) through all steps of all epochs.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}

# Fields that came after the first runs; they count only if they are given.
LATER = ("stop_patience", "stop_by")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: Epochs of the full training.
        batch_size: Examples a step; an epoch's last batch may be smaller.
        optimizer: Name of a class in ``torch.optim``.
        lr: Learning rate at the start.
        momentum: Momentum; None means 0.9 for an optimiser that has the option, and nothing for others.
        weight_decay: Weight decay; also of the biases, as in ``torch.optim``.
        schedule: ``cosine``, ``linear`` or ``constant``: one schedule over all steps of all epochs.
        stop_patience: Epochs without a better validation after which a final training stops, with the result of its best epoch;
            None trains all epochs. The schedule of the learning rate spans all of them, and brief trainings do not stop.
        stop_by: The validation that is to get better: validation_loss, validation_accuracy, or validation_NAME of one of the
            problem's metrics. None: validation_loss.
        options: Further keyword arguments of the optimiser.

    Raises:
        InputError: A value out of range, or an optimiser or option that is not in ``torch.optim``.
    """

    epochs: int = 15
    batch_size: int = 64
    optimizer: str = "SGD"
    lr: float = 0.05
    momentum: float | None = None
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    stop_patience: int | None = None
    stop_by: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, metadata={"flag": False})

    def __post_init__(self) -> None:
        check_sizes(self)
        for name in ("epochs", "batch_size", *(() if self.stop_patience is None else ("stop_patience",))):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; expected a positive integer.")
        if not (_is_finite(self.lr) and self.lr > 0):
            raise InputError(f"lr is {self.lr!r}; expected a positive number, such as 0.05.")
        for name in ("momentum", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not _is_finite(value):
                raise InputError(f"{name} is {value!r}; expected a number, such as {0.9 if name == 'momentum' else 5e-4}.")
        if self.stop_by is not None and self.stop_patience is None:
            raise InputError(
                f"stop_by is {self.stop_by!r}, but no stop_patience is given; give the epochs to wait, such as stop_patience=5."
            )
        look_up("schedule", self.schedule, SCHEDULES)
        kind = look_up("optimizer", self.optimizer, optimizers())
        if self.momentum is None and "momentum" not in self.options and "momentum" in inspect.signature(kind).parameters:
            object.__setattr__(self, "momentum", 0.9)
        self.make_optimizer([nn.Parameter(torch.zeros(2, 2))])

    def recorded(self) -> dict[str, Any]:
        """Returns the values as runs record them: later ones only if they are given, so that earlier runs still match."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value is not None}

    def make_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns the optimiser over some parameters.

        Raises:
            InputError: The optimiser is unknown, needs a closure, or refuses an option.
        """
        kind = look_up("optimizer", self.optimizer, optimizers())
        arguments: dict[str, Any] = {"lr": self.lr, **self.options}
        if self.weight_decay or "weight_decay" in inspect.signature(kind).parameters:  # Rprop has none
            arguments["weight_decay"] = self.weight_decay
        if self.momentum is not None:
            arguments["momentum"] = self.momentum
        try:
            make = kind if self.options.get("differentiable") else without_compiler(self.optimizer)
            return make(parameters, **arguments)
        except (TypeError, ValueError) as error:
            raise InputError(f"torch.optim.{self.optimizer} refuses {arguments}: {error}.") from error

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Returns the learning rate of a step counted from the start of training."""
        return self.lr * SCHEDULES[self.schedule](step / (steps_per_epoch * self.epochs))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Returns the optimisers of ``torch.optim`` that train with dense gradients and no closure, by name."""
    found = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    }
    return {name: kind for name, kind in found.items() if name not in ("Optimizer", "LBFGS", "SparseAdam")}


@functools.cache
def without_compiler(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Returns a class that is one of ``torch.optim`` and makes the same steps, bit for bit, without importing torch's compiler.

    torch wraps some methods for ``torch.compile``, and the wrappers import ``torch._dynamo``, which takes two seconds in every
    process. Here the same methods are called without the wrappers.

    Args:
        name: The class's name. No step is differentiated, whatever the option ``differentiable`` says.
    """
    kind = optimizers()[name]
    methods = {method: inspect.unwrap(getattr(kind, method)) for method in ("add_param_group", "zero_grad")}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(name, (kind,), methods)
