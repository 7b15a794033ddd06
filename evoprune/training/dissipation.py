"""Dissipating gradients: removes, in the first epochs of training, the weights that barely moved (arXiv:2209.02201)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evoprune.errors import InputError, look_up
from evoprune.masks.bits import Bits
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.training.ranking import SCOPES, layer_numbers, without_last
from evoprune.training.schedule import Moment

Values: TypeAlias = NDArray[np.floating[Any]]

MOVEMENTS = ("absolute", "relative", "random", "magnitude")
COURSES = ("geometric", "cubic")

STILL = (
    "all weights have moved alike, so that movement ranks none of them, and the smallest are removed; expected training that "
    "moves weights: check the recipe's lr, and whether weights are frozen or get no gradient."
)

# Edges of the histograms of movement: log10 of the score; scores beyond them are counted in the outermost bins.
EDGES = np.linspace(-6.0, 2.0, 65)


@dataclass(frozen=True)
class Dissipation:
    """The weights to remove, and the epochs at whose end they are removed.

    Either the sparsity is given, and each epoch's threshold follows from a geometric schedule of density; or a fraction is
    given, and the sparsity emerges. This is the project's reading of arXiv:2209.02201, of which only the abstract was read:
    "eliminating weights that remain within a fraction of their initial value during the first couple of epochs".

    Attributes:
        epochs: Number of removals: one at the end of each of so many epochs.
        sparsity: Sparsity after the last removal; None if ``fraction`` is given.
        fraction: f: survivors with a score of at most f are removed; None if ``sparsity`` is given.
        movement: The score of a survivor. ``relative``: |w - w0| / |w0|, the paper's words. ``absolute``: |w - w0| over the
            mean |w0| of all prunable weights. ``random``: a random number from 0 to 1, the control: random dropout of weights
            with the same schedule. ``magnitude``: |w| over the mean |w0|, the control that ignores where a weight began.
        scope: ``global``: one threshold for all layers. ``layer``: every layer loses the same fraction of its survivors, or
            ``absolute`` movement is over the layer's own mean |w0|.
        first: The epoch, counted from 1, at whose end the first removal is.
        course: How the density falls to that of ``sparsity``. ``geometric``: by the same factor at each removal. ``cubic``: the
            sparsity rises by the cubic schedule of gradual pruning (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1).

    Raises:
        InputError: A value out of range or an unknown name.
    """

    epochs: int
    sparsity: float | None = None
    fraction: float | None = None
    movement: str = "absolute"
    scope: str = "global"
    first: int = 1
    course: str = "geometric"

    def __post_init__(self) -> None:
        for name, value in (("dissipate_epochs", self.epochs), ("first", self.first)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; expected a positive integer.")
        if (self.sparsity is None) == (self.fraction is None):
            raise InputError(
                f"sparsity is {self.sparsity} and fraction {self.fraction}; expected one of them: a sparsity to reach, or a "
                f"fraction from which the sparsity emerges."
            )
        if self.fraction is not None and not (math.isfinite(self.fraction) and self.fraction >= 0):
            raise InputError(f"fraction is {self.fraction}; expected a number of at least 0, such as 0.1.")
        look_up("movement", self.movement, dict.fromkeys(MOVEMENTS, True))
        look_up("scope", self.scope, dict.fromkeys(SCOPES, True))
        look_up("course", self.course, dict.fromkeys(COURSES, True))
        if self.fraction is not None and self.course != "geometric":
            raise InputError(f"course is {self.course!r}, but fraction {self.fraction} decides how many go; give one of them.")

    def start(self) -> Dissipating:
        """Returns the schedule of one training."""
        return Dissipating(self)

    @property
    def last(self) -> int:
        """The epoch at whose end the last removal is."""
        return self.first + self.epochs - 1

    def recorded(self) -> dict[str, Any]:
        """Returns the values as runs record them: the course only if it is not the one that runs once had."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("course", "geometric")}

    def require(self, problem: Problem, sparsity: float) -> None:
        """Checks that the removals fit the recipe, and begin at a lower sparsity than they end.

        Raises:
            InputError: They do not.
        """
        if self.last > problem.recipe.epochs:
            raise InputError(
                f"the last removal is after epoch {self.last}, but the recipe has {problem.recipe.epochs} epochs; lower "
                f"dissipate_epochs ({self.epochs}), or raise epochs."
            )
        if self.sparsity is not None and survivors_of(self.sparsity, problem.prunable_count) > survivors_of(
            sparsity, problem.prunable_count
        ):
            raise InputError(
                f"dissipating from sparsity {sparsity} to {self.sparsity}; expected to end at a higher one than it begins with."
            )

    def target(self, epoch: int, survivors: int, n: int) -> int | None:
        """Returns how many of n weights are to survive the removal after an epoch; None if the threshold is given.

        Args:
            epoch: The epoch, from ``first`` to ``last``.
            survivors: How many there are before.
            n: Number of prunable weights.
        """
        if self.sparsity is None:
            return None
        end, left = survivors_of(self.sparsity, n), self.last - epoch
        if self.course == "cubic":  # eq. 1, from one removal to the next
            return round(end + (survivors - end) * (left / (left + 1)) ** 3)
        return int(round(survivors * (end / survivors) ** (1 / (left + 1))))  # noqa: RUF046


class Dissipating:
    """The schedule of a dissipation in one training.

    Args:
        dissipation: The weights to remove, and the epochs.

    Attributes:
        log: After each removal, a list with the description of each individual's, see :func:`describe_removal`.
        last: The epoch of the last removal.
    """

    every: int | None = None

    def __init__(self, dissipation: Dissipation) -> None:
        self.dissipation, self.last = dissipation, dissipation.last
        self.log: list[list[dict[str, Any]]] = []

    def masks_after(self, moment: Moment) -> list[Mask] | None:
        """Returns the masks that are left at the end of an epoch; None before the first removal and after the last."""
        dissipation, epoch, problem = self.dissipation, moment.epoch, moment.problem
        if not dissipation.first <= epoch <= dissipation.last:
            return None
        masks, described = [], []
        for k, mask in enumerate(moment.population.masks):
            values = moment.population.survivor_values(k, moment.population.weights).cpu().numpy()
            scores = movement_scores(problem, mask, values, dissipation, [moment.seed, epoch])
            target = dissipation.target(epoch, mask.survivors, problem.prunable_count)
            masks.append(_without_still(mask, scores, values, dissipation, target))
            described.append(describe_removal(epoch, masks[-1], scores, ~masks[-1].bits[mask.bits]))
        self.log.append(described)
        return masks


def densities(first: float, last: float, removals: int, course: str = "geometric") -> list[float]:
    """Returns the densities before each removal.

    Args:
        first: The density before the first.
        last: The density after the last.
        removals: Their number.
        course: See :class:`Dissipation`.
    """
    if course == "cubic":
        return [last + (first - last) * (1 - i / removals) ** 3 for i in range(removals)]
    return [first * (last / first) ** (i / removals) for i in range(removals)]


def movement_scores(
    problem: Problem, mask: Mask, values: Values, dissipation: Dissipation, seed: Sequence[int] = (0,)
) -> NDArray[np.float64]:
    """Returns each survivor's score, in the order of the mask; see :class:`Dissipation`.

    Args:
        problem: The problem.
        mask: The mask.
        values: The survivors' weights now.
        dissipation: Its ``movement`` and ``scope`` are used.
        seed: Seeds ``movement="random"``.
    """
    if dissipation.movement == "random":
        # drawn for every weight, so that a survivor's draw does not depend on the other survivors
        return np.random.default_rng([*seed, 2]).random(len(mask))[mask.bits]  # 0 and 1 are the batches' and the noise's
    w0 = problem.w0[mask.bits].astype(np.float64)
    moved = np.abs(values if dissipation.movement == "magnitude" else values - w0)
    if dissipation.movement == "relative":
        # a weight that is zero at the start has moved infinitely, or not at all
        return np.divide(moved, np.abs(w0), out=np.where(moved > 0, np.inf, 0.0), where=w0 != 0)
    size = np.abs(problem.w0.astype(np.float64))
    if dissipation.scope == "global":
        return moved / (size.mean() or 1.0)
    layer = layer_numbers(mask.shapes)
    means = np.bincount(layer, size) / np.bincount(layer)
    scores: NDArray[np.float64] = moved / np.where(means > 0, means, 1.0)[layer[mask.bits]]
    return scores


def describe_removal(epoch: int, mask: Mask, scores: NDArray[np.float64], removed: Bits) -> dict[str, Any]:
    """Describes a removal in JSON values.

    Args:
        epoch: The epoch at whose end it was.
        mask: The mask after it.
        scores: The scores of those that survived until then.
        removed: True for the survivors that were removed.

    Returns:
        ``epoch``, ``survivors``, ``threshold`` (the largest score removed; None for no removal), ``layers`` (survivors by
        name), and the numbers of the ``kept`` and the ``removed`` in each bin of :data:`EDGES`.
    """
    with np.errstate(divide="ignore"):
        bins = np.clip(np.log10(scores), EDGES[0], EDGES[-1])
    return {
        "epoch": epoch,
        "survivors": mask.survivors,
        "threshold": float(scores[removed].max()) if removed.any() else None,
        "layers": {name: int(np.count_nonzero(layer)) for name, layer in mask.layers.items()},
        "kept": np.histogram(bins[~removed], EDGES)[0].tolist(),
        "removed": np.histogram(bins[removed], EDGES)[0].tolist(),
    }


def _without_still(
    mask: Mask, scores: NDArray[np.float64], values: Values, dissipation: Dissipation, target: int | None
) -> Mask:
    """Returns a mask without the survivors within the fraction, or without those of the least scores, to meet the target.

    Among equal scores the smaller weights go first: those that no gradient has reached have all moved alike.
    """
    if target is None:
        assert dissipation.fraction is not None
        bits = mask.bits.copy()
        bits[bits] = scores > dissipation.fraction
        return Mask(bits, mask.shapes)
    if target < len(scores) and scores.min() == scores.max():
        warnings.warn(STILL, UserWarning, stacklevel=3)
    return without_last(mask, np.lexsort((np.abs(values), scores)), target, dissipation.scope)
