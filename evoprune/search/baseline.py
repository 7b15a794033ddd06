"""A baseline's mask, fully trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evoprune.baselines.registry import BASELINES, Baseline
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.course import run
from evoprune.search.method import Cost, Found
from evoprune.search.session import Session


@dataclass(frozen=True)
class BaselineOptions:
    """Options of a baseline."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1; dense removes none."""


def method_of(name: str, known: Baseline) -> type[Any]:
    """Returns a baseline as a method.

    Args:
        name: The baseline's name.
        known: Its entry in the registry.
    """

    class Pruned:
        Options = BaselineOptions

        def __init__(self, session: Session, options: BaselineOptions) -> None:
            self.session, self.options = session, options

        def find(self) -> Found:
            problem, sparsity = self.session.problem, self.options.sparsity
            mask = known.prune(problem, sparsity=sparsity, seed=self.session.seed)
            epochs = problem.recipe.epochs
            return Found(mask, known.search_epochs(problem, epochs), known.search_cost(problem, sparsity, epochs))

        @staticmethod
        def require(problem: Problem, options: BaselineOptions) -> None:
            survivors_of(options.sparsity, problem.prunable_count)

        @staticmethod
        def settings(problem: Problem, options: BaselineOptions) -> dict[str, Any]:
            return {"sparsity": float(options.sparsity)}

        @staticmethod
        def own(options: BaselineOptions) -> dict[str, object]:
            return {f"baseline {name}": known.prune} if name in BASELINES.own else {}

        @staticmethod
        def cost(problem: Problem, options: BaselineOptions) -> Cost:
            density = 0.0 if name == "dense" else options.sparsity
            return lambda epochs: known.search_cost(problem, options.sparsity, epochs) + epochs * (1 - density)

    Pruned.__name__, Pruned.__doc__ = name, known.summary or f"The baseline {name}."
    return Pruned


def baseline(problem: Problem, method: str | Callable[..., Mask], **options: Any) -> Result:
    """Finds the mask of a baseline, and trains it fully from W0.

    Args:
        problem: The problem.
        method: Name of the baseline, see :data:`evoprune.baselines.BASELINES`; or a function (problem, sparsity, seed) that
            returns a mask.
        **options: Fields of :class:`evoprune.search.baseline.BaselineOptions` and of
            :class:`evoprune.search.execution.Execution`.

    Returns:
        The mask, its trained network and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: The final training diverged.
    """
    if isinstance(method, Mask):
        raise InputError("method is a mask; expected the name of a baseline. To train a mask: ep.train_mask(problem, mask).")
    found = BASELINES.find(method)
    name = BASELINES.name_of(method)
    return run(name, method_of(name, found), problem, options)
