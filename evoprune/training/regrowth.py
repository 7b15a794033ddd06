"""Schedules that drop small weights and let as many others grow: SET, RigL, GraNet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError, look_up
from evoprune.masks.bits import layer_slices
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.training.gradient import BATCH
from evoprune.training.gradual import (
    Gradual,
    GradualOptions,
    cubic,
    describe_change,
    keep_largest,
    removals_in,
    require_clock,
    require_rise,
    steps_of,
)
from evoprune.training.schedule import Moment

GROW = ("gradient", "soft", "random")
# Steps from one change to the next (Evci et al. 2020), and the sparsity that GraNet begins with, unless options say otherwise.
EVERY = 100
FIRST_SPARSITY = 0.8


@dataclass(frozen=True)
class RigLOptions:
    """Options of RigL."""

    every: int | None = None
    """Steps from one change of the mask to the next. None: 100, or an epoch's if there are fewer."""
    drop_fraction: float = 0.3
    """Fraction of each layer's survivors that is dropped at the first change, above 0 and below 1."""
    drop_decay: Literal["cosine", "constant"] = "cosine"
    """How that fraction falls until the last change: as a cosine, to 0, or not at all."""
    regrow_until: float = 0.75
    """Part of the training in which the mask changes, above 0 and at most 1."""
    grow: Literal["gradient", "soft", "random"] = "gradient"
    """Which weights grow: gradient (the largest dense gradients), soft (drawn in proportion to the dense gradient's size) or
    random."""


@dataclass(frozen=True)
class SETOptions(RigLOptions):
    """Options of SET."""

    every: int | None = None
    """Steps from one change of the mask to the next. None: one change at the end of each epoch, but the last."""
    drop_decay: Literal["cosine", "constant"] = "constant"
    """How that fraction falls until the last change: as a cosine, to 0, or not at all."""
    regrow_until: float = 1.0
    """Part of the training in which the mask changes, above 0 and at most 1."""
    grow: Literal["gradient", "soft", "random"] = "random"
    """Which weights grow: gradient (the largest dense gradients), soft (drawn in proportion to the dense gradient's size) or
    random."""


@dataclass(frozen=True)
class GraNetOptions(RigLOptions):
    """Options of GraNet."""

    first_sparsity: float | None = None
    """Sparsity of the random mask (ERK) that training begins with; 0 begins with the dense network. None: 0.8, or 0 if the
    final sparsity is no higher."""
    prune_until: float = 0.5
    """Part of the training in which the sparsity rises, above 0 and at most 1."""
    scope: Literal["global", "layer"] = "global"
    """global: the smallest weights of all layers go as the sparsity rises; layer: every layer loses the same fraction."""


class RigL:
    """RigL: train a random mask, and every 100 steps replace the smallest weights by those of the largest gradients.

    Of each layer with n survivors, the round(f_t n) of the smallest |w| are dropped, and as many of the weights that are not
    among the survivors then grow: those of the largest |gradient| of the loss in all weights (Evci et al. 2020,
    arXiv:1911.11134, algorithm 1). f_t = f / 2 (1 + cos(pi t / T)) until step T. A weight that is dropped and grows at once
    stays as it was; the others start at zero, without memory. Layers keep their numbers of survivors.

    Args:
        problem: The problem; its recipe says how long the training is.
        sparsity: Sparsity of the mask.
        options: The options; None for the defaults.

    Attributes:
        log: After each change, a list with each individual's :func:`evoprune.training.gradual.describe_change`.
        last: The epoch of the last change.

    Raises:
        InputError: A value out of range, or an unknown name.
    """

    Options: type[RigLOptions] = RigLOptions

    def __init__(self, problem: Problem, sparsity: float, options: RigLOptions | None = None) -> None:
        self.options = options = options or self.Options()
        _require_drop(options)
        survivors_of(sparsity, problem.prunable_count)
        self.first_sparsity, self.every, self.steps = sparsity, every_of(problem, options), steps_of(problem)
        self.interval = self.every or self.steps
        self._end = options.regrow_until * problem.recipe.epochs * self.steps
        self.count = changes_before_end(problem, problem.recipe.epochs, options)
        if not self.count:
            raise InputError(
                f"the mask would never change: it does so every {self.interval} steps before step {self._end:g}, of "
                f"{problem.recipe.epochs * self.steps} in all; lower every, or raise epochs."
            )
        self.changes = self.count
        self.last = -(-self.count * self.interval // self.steps)
        self.log: list[list[dict[str, Any]]] = []

    def masks_after(self, moment: Moment) -> list[Mask] | None:
        """Returns the masks with some weights replaced; None after the last change."""
        number = moment.step // self.interval
        if number > self.changes:
            return None
        masks = self.begin(moment)
        if number <= self.count:
            masks = [regrown(moment, k, mask, moment.step / self._end, self.options) for k, mask in enumerate(masks)]
        self.log.append([describe_change(moment, k, mask) for k, mask in enumerate(masks)])
        return masks

    def begin(self, moment: Moment) -> list[Mask]:
        """Returns the masks of which weights are dropped."""
        return list(moment.population.masks)

    @classmethod
    def cost(cls, problem: Problem, sparsity: float, options: RigLOptions) -> Callable[[int], float]:
        """Returns the planned cost as a function of the recipe's epochs, in epochs of dense training."""
        return lambda epochs: epochs * (1 - sparsity) + _gradients_cost(problem, epochs, options)


class SET(RigL):
    """SET: train a random mask, and after each epoch replace the smallest weights by random ones (Mocanu et al. 2018).

    The source is arXiv:1707.04780, algorithm 2. The paper drops a fraction of the smallest positive and of the largest negative
    weights of each layer, and draws what grows from a normal distribution; here the smallest |w| are dropped, as in Evci et al.
    2020, and weights grow from zero. After the last epoch nothing changes.

    Args:
        problem: See :class:`RigL`.
        sparsity: Sparsity of the mask.
        options: The options; None for the defaults.
    """

    Options = SETOptions


class GraNet(RigL):
    """GraNet: prune gradually from a random mask of lower sparsity, and regrow as RigL does (Liu et al. 2021).

    At each change the smallest weights go until the cubic schedule's sparsity is met; then a fraction of each layer's survivors
    is replaced, "zero-cost neuroregeneration" (arXiv:2106.10404, section 4).

    Args:
        problem: See :class:`RigL`.
        sparsity: Sparsity at the end.
        options: The options; None for the defaults.
    """

    Options = GraNetOptions
    options: GraNetOptions

    def __init__(self, problem: Problem, sparsity: float, options: GraNetOptions | None = None) -> None:
        super().__init__(problem, sparsity, options)
        require_clock(self.options.every, self.options.prune_until, "prune_until")
        self.sparsity, self.first_sparsity = sparsity, _first_sparsity(self.options, sparsity)
        require_rise(problem, self.first_sparsity, sparsity)
        self._removals = removals_in(problem, self.interval, self.options.prune_until)
        self.changes = max(self.count, self._removals)
        self.last = -(-self.changes * self.interval // self.steps)

    def begin(self, moment: Moment) -> list[Mask]:
        """Returns the masks without their smallest weights, as many as the schedule says."""
        progress = moment.step // self.interval / self._removals
        target = cubic(progress, self.first_sparsity, self.sparsity, moment.problem.prunable_count)
        return [keep_largest(moment, k, target, self.options.scope) for k in range(len(moment.population.masks))]

    @classmethod
    def cost(cls, problem: Problem, sparsity: float, options: RigLOptions) -> Callable[[int], float]:
        """Returns the planned cost as a function of the recipe's epochs, in epochs of dense training."""
        assert isinstance(options, GraNetOptions)
        first, every = _first_sparsity(options, sparsity), every_of(problem, options)
        gradual = GradualOptions(first, options.prune_until, every, options.scope)
        falling = Gradual.cost(problem, sparsity, gradual)
        return lambda epochs: falling(epochs) + _gradients_cost(problem, epochs, options)


def regrown(moment: Moment, k: int, mask: Mask, progress: float, options: RigLOptions) -> Mask:
    """Returns a mask with a fraction of each layer's survivors replaced.

    Args:
        moment: The moment.
        k: The individual.
        mask: Its mask, a part of the survivors that it has now.
        progress: How much of the changes is done, from 0 to 1; the fraction falls with it.
        options: The options.
    """
    decay = (1 + math.cos(math.pi * progress)) / 2 if options.drop_decay == "cosine" else 1.0
    weights, bits = np.abs(moment.weights(k)), mask.bits.copy()
    rank = _growth_rank(moment, k, options.grow)
    for block in layer_slices(mask.shapes).values():
        survivors = np.flatnonzero(mask.bits[block])
        count = min(round(options.drop_fraction * decay * len(survivors)), len(mask.bits[block]) - len(survivors))
        own = bits[block]
        own[survivors[np.argsort(weights[block][survivors], kind="stable")[:count]]] = False
        removed = np.flatnonzero(~own)
        own[removed[np.argsort(-rank[block][removed], kind="stable")[:count]]] = True
    return Mask(bits, mask.shapes)


def _growth_rank(moment: Moment, k: int, grow: str) -> NDArray[np.floating[Any]]:
    """Returns a number for each prunable weight; those with the largest grow first."""
    rng = np.random.default_rng([moment.seed, moment.step])  # the same for every individual, alone and in company
    if grow == "random":
        return rng.random(moment.problem.prunable_count)
    gradient = moment.gradients(k)
    if grow == "gradient":
        return gradient
    # the largest of log p + Gumbel noise are a draw in proportion to p without replacement
    with np.errstate(divide="ignore"):
        found: NDArray[np.floating[Any]] = np.log(gradient.astype(np.float64)) + rng.gumbel(size=len(gradient))
    return found


def changes_before_end(problem: Problem, epochs: int, options: RigLOptions) -> int:
    """Returns how many changes there are: those before the end of the part of the training in which the mask changes."""
    steps = steps_of(problem)
    return math.ceil(options.regrow_until * epochs * steps / (every_of(problem, options) or steps) - 1e-9) - 1


def every_of(problem: Problem, options: RigLOptions) -> int | None:
    """Returns the number of steps from one change to the next; None for an epoch's."""
    if options.every is not None or isinstance(options, SETOptions):
        return options.every
    return EVERY if steps_of(problem) > EVERY else None


def _first_sparsity(options: GraNetOptions, sparsity: float) -> float:
    if options.first_sparsity is None:
        return FIRST_SPARSITY if sparsity > FIRST_SPARSITY else 0.0
    return options.first_sparsity


def _gradients_cost(problem: Problem, epochs: int, options: RigLOptions) -> float:
    """Returns the cost of the dense gradients, in epochs of dense training."""
    n, changes = len(problem.part("train")[0]), changes_before_end(problem, epochs, options)
    if not changes:
        return math.inf  # refused
    return 0.0 if options.grow == "random" else changes * min(BATCH, n) / n


def _require_drop(options: RigLOptions) -> None:
    require_clock(options.every, options.regrow_until, "regrow_until")
    if not (math.isfinite(options.drop_fraction) and 0 < options.drop_fraction < 1):
        raise InputError(f"drop_fraction is {options.drop_fraction!r}; expected a number above 0 and below 1, such as 0.3.")
    look_up("drop_decay", options.drop_decay, dict.fromkeys(("cosine", "constant"), True))
    look_up("grow", options.grow, dict.fromkeys(GROW, True))
