"""Recipe: how a network is trained."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn

from evoprune.errors import InputError, look_up
from evoprune.options import check_sizes, choose, later_of, parameters_of
from evoprune.problem.learning_rates import LEARNING_RATES, OfProgress, Position, factor_at
from evoprune.problem.optimizers import OPTIMIZERS, accepts, require_optimizer, without_compiler
from evoprune.registry import Own

# Examples in a batch when networks are measured, not trained.
MEASURE_BATCH = 1000

# Metadata of fields that are newer than the records of runs.
_LATER = {"later": True}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: Epochs of the full training.
        batch_size: Examples a step; an epoch's last batch may be smaller.
        optimizer: Name of a class in ``torch.optim``, or of one that --load or a plugin registers; or a class of yours derived
            from ``torch.optim.Optimizer``, or a function that makes one.
        lr: Learning rate: the one that the schedule begins with, or the highest of one-cycle.
        momentum: Momentum; None means 0.9 for an optimiser that has the option, and nothing for others.
        weight_decay: Weight decay, of the parameters that ``decay`` names.
        schedule: Schedule of the learning rate, one over all steps of all epochs: ``cosine``, ``linear``, ``constant``,
            ``milestones`` (steps down, He et al. 2016), ``one-cycle`` (up and down, Smith and Topin 2018; the momentum stays),
            one that --load or a plugin registers, or a function of the progress, from 0 up to 1, that returns a factor of lr.
        stop_patience: Epochs without a better validation after which a final training stops, with the result of its best epoch;
            None trains all epochs. The schedule of the learning rate spans all of them, and brief trainings do not stop.
        stop_by: The validation that is to get better: validation_loss, validation_accuracy, or validation_NAME of one of the
            problem's metrics. None: validation_loss.
        options: Further keyword arguments of the optimiser.
        warmup: Epochs in which the learning rate rises in a line from 0 before the schedule begins; parts of an epoch are
            allowed. Milestones are counted from the start of training all the same.
        milestones: When the schedule ``milestones`` multiplies the learning rate: numbers below 1 are parts of all epochs,
            others epochs.
        gamma: The factor of the schedule ``milestones``.
        nesterov: Nesterov's momentum, for optimisers that have the option.
        decay: The parameters that decay: ``all``, as in ``torch.optim``, or ``weights`` for those of several dimensions alone,
            which leaves out biases and the scales and shifts of normalisation.
        clip_norm: The largest norm of a network's gradient, which is scaled down to it before a step, each network of a
            population by itself; removed weights have no gradient. None: not scaled.
        clip_value: The largest absolute value of a gradient's elements, to which they are cut before a step. None: not cut.
        precision: Precision of forward and backward passes: ``full``, or ``bf16`` for torch's autocast to bfloat16, in training
            and measurement. Weights, optimiser and loss stay in full precision, and so do gradients by which weights are
            chosen: those of SNIP, GraSP and SynFlow, and those by which RigL, GraNet and mutation grow. The engine sparse has
            full alone.

    Warns:
        UserWarning: A milestone comes after the last epoch.

    Raises:
        InputError: A value out of range, an unknown optimiser, or an option that it refuses.
    """

    epochs: int = 15
    batch_size: int = 64
    optimizer: Any = "SGD"
    lr: float = 0.05
    momentum: float | None = None
    weight_decay: float = 5e-4
    schedule: Any = "cosine"
    options: Mapping[str, Any] = field(default_factory=dict, metadata={"flag": False})
    warmup: float = field(default=0.0, metadata=_LATER)
    milestones: tuple[float, ...] = field(default=(0.5, 0.75), metadata=_LATER)
    gamma: float = field(default=0.1, metadata=_LATER)
    nesterov: bool = field(default=False, metadata=_LATER)
    stop_patience: int | None = field(default=None, metadata=_LATER)
    stop_by: str | None = field(default=None, metadata=_LATER)
    decay: Literal["all", "weights"] = field(default="all", metadata=_LATER)
    clip_norm: float | None = field(default=None, metadata=_LATER)
    clip_value: float | None = field(default=None, metadata=_LATER)
    precision: Literal["full", "bf16"] = field(default="full", metadata=_LATER)

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
        self._check_schedule()
        if self.stop_by is not None and self.stop_patience is None:
            raise InputError(
                f"stop_by is {self.stop_by!r}, but no stop_patience is given; give the epochs to wait, such as stop_patience=5."
            )
        self._check_step()

    def _check_step(self) -> None:
        """Checks the optimiser's fields, and the clipping."""
        object.__setattr__(self, "optimizer", OPTIMIZERS.own_or_name(self.optimizer))
        if self.momentum is None and "momentum" not in self.options and "momentum" in parameters_of(self._kind):
            object.__setattr__(self, "momentum", 0.9)
        look_up("decay", self.decay, dict.fromkeys(("all", "weights")))
        choose("precision", self.precision, ("full", "bf16"))
        for name in ("clip_norm", "clip_value"):
            value = getattr(self, name)
            if value is not None and not (_is_finite(value) and value > 0):
                raise InputError(f"{name} is {value!r}; expected a number above 0, such as 1.")
            object.__setattr__(self, name, None if value is None else float(value))
        if self.clip_norm is not None and self.clip_value is not None:
            raise InputError(f"clip_norm is {self.clip_norm} and clip_value {self.clip_value}; expected one of them.")
        weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
        self.make_optimizer([weight, bias] if self.decay == "weights" else [weight], [bias])

    def _check_schedule(self) -> None:
        """Checks the schedule's fields, and gives them one type, so that equal ones are recorded alike."""
        object.__setattr__(self, "schedule", LEARNING_RATES.own_or_name(self.schedule))
        if not (_is_finite(self.warmup) and 0 <= self.warmup < self.epochs):
            raise InputError(
                f"warmup is {self.warmup!r}; expected a number of epochs of at least 0 and below the recipe's {self.epochs}."
            )
        if self.warmup and self.schedule == "one-cycle":
            raise InputError(f"warmup is {self.warmup}, but the schedule one-cycle has its own; leave warmup out.")
        given = self.milestones if isinstance(self.milestones, (tuple, list)) else (self.milestones,)
        if not given or not all(_is_finite(at) and at > 0 for at in given) or sorted(set(given)) != list(given):
            raise InputError(
                f"milestones are {self.milestones!r}; expected rising numbers above 0: below 1 parts of all epochs, such as "
                f"0.5 0.75, others epochs, such as 80 120."
            )
        if not (_is_finite(self.gamma) and 0 < self.gamma <= 1):
            raise InputError(f"gamma is {self.gamma!r}; expected a factor above 0 and at most 1, such as 0.1.")
        one_type = {"warmup": float(self.warmup), "milestones": tuple(float(at) for at in given), "gamma": float(self.gamma)}
        for name, value in one_type.items():
            object.__setattr__(self, name, value)
            if name != "warmup" and self.schedule != "milestones" and value != later_of(Recipe)[name]:
                raise InputError(
                    f"{name} is {value}, but the schedule is {self.schedule}; give schedule='milestones', or leave it out."
                )

        self._warn_of_milestones()

    def _warn_of_milestones(self) -> None:
        """Says which milestones come after the last epoch; no error, since fewer epochs may fit a comparison's budget."""
        late = [f"{at:g}" for at in self.milestones if at >= max(1, self.epochs)]
        if self.schedule == "milestones" and late:
            warnings.warn(
                f"the milestones {', '.join(late)} are never reached in {self.epochs} epochs: expected epochs below "
                f"{self.epochs}, or parts of all epochs below 1, such as 0.5 0.75. Give others, or more epochs.",
                stacklevel=5,
            )

    @property
    def _kind(self) -> Any:
        """The class or function that makes the optimiser."""
        return self.optimizer.thing if isinstance(self.optimizer, Own) else OPTIMIZERS[self.optimizer]

    def make_optimizer(
        self, parameters: Sequence[nn.Parameter], undecayed: Sequence[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """Returns the optimiser over some parameters.

        Args:
            parameters: The parameters.
            undecayed: Those of them that are no weights: with ``decay="weights"`` they have a group without weight decay.

        Raises:
            InputError: The optimiser is unknown, needs a closure, or refuses an option.
        """
        arguments: dict[str, Any] = {"lr": self.lr, **self.options}
        if self.weight_decay or accepts(self._kind, "weight_decay"):  # Rprop has none
            arguments["weight_decay"] = self.weight_decay
        if self.momentum is not None:
            arguments["momentum"] = self.momentum
        if self.nesterov:
            arguments["nesterov"] = True
        without = {id(parameter) for parameter in undecayed} if self.decay == "weights" and self.weight_decay else set()
        trained: list[Any] = [parameter for parameter in parameters if id(parameter) not in without]
        if without:
            trained = [{"params": trained}, {"params": list(undecayed), "weight_decay": 0.0}]
        own = isinstance(self.optimizer, Own)
        try:
            make = self._kind if own or self.options.get("differentiable") else without_compiler(self.optimizer)
            made: torch.optim.Optimizer = make(trained, **arguments)
        except (TypeError, ValueError) as error:
            title = self.optimizer.name if own else f"torch.optim.{self.optimizer}"
            raise InputError(f"{title} refuses {arguments}: {error}.") from error
        if own:
            require_optimizer(made, self.optimizer.name)
        return made

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Returns the learning rate of a step counted from the start of training."""
        position = Position(
            step=step,
            steps=steps_per_epoch * self.epochs,
            warmup=round(steps_per_epoch * self.warmup),
            milestones=tuple(steps_per_epoch * (at if at >= 1 else at * self.epochs) for at in self.milestones),
            gamma=self.gamma,
        )
        own = isinstance(self.schedule, Own)
        return self.lr * factor_at(OfProgress(self.schedule.thing) if own else LEARNING_RATES[self.schedule], position)

    @property
    def own(self) -> dict[str, Any]:
        """The user's functions and classes among the fields, by the fields' names."""
        return {each.name: value.thing for each in fields(self) if isinstance(value := getattr(self, each.name), Own)}

    def recorded(self) -> dict[str, Any]:
        """Returns the fields as runs record them: a user's function by its name, and newer fields only if they are given."""
        later = later_of(Recipe)
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        kept = {name: value for name, value in values.items() if name not in later or value != later[name]}
        return {name: value.name if isinstance(value, Own) else copy.deepcopy(value) for name, value in kept.items()}


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
