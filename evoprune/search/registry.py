"""The registry of methods, and running one by its name."""

from __future__ import annotations

from typing import Any

from evoprune.baselines.registry import BASELINES
from evoprune.errors import look_up
from evoprune.problem.problem import Problem
from evoprune.registry import Registry
from evoprune.runs.result import Result
from evoprune.search import baseline, scheduled
from evoprune.search.combine import Combine
from evoprune.search.course import run
from evoprune.search.dissipate import Dissipate
from evoprune.search.evolution.evolve import Evolve
from evoprune.search.evolution.evolve_gmp import EvolveGmp
from evoprune.search.imp import Imp
from evoprune.search.kstarts import KStarts
from evoprune.search.method import Method
from evoprune.search.train import Train
from evoprune.training.registry import SCHEDULES

METHODS: Registry[Method] = Registry("method", {
    "kstarts": KStarts, "dissipate": Dissipate, "combine": Combine, "evolve": Evolve, "evolve-gmp": EvolveGmp, "imp": Imp,
    "train": Train,
})  # fmt: skip


def method_names() -> tuple[str, ...]:
    """Returns the names of all methods: searches, schedules of masks, and baselines."""
    return tuple(dict.fromkeys([*METHODS, *SCHEDULES, *BASELINES]))


def find_method(name: str | Method) -> Method:
    """Returns a method by its name; a method that is given itself is returned as it is.

    Raises:
        InputError: The name is unknown; the message lists the known ones and the nearest.
    """
    if not isinstance(name, str):
        return name
    look_up("method", name, dict.fromkeys(method_names()))
    if name in METHODS:
        return METHODS[name]
    return scheduled.method_of(name, SCHEDULES[name]) if name in SCHEDULES else baseline.method_of(name, BASELINES[name])


def prune(problem: Problem, method: str | Method, **options: Any) -> Result:
    """Finds a mask by any method, and trains it fully.

    Args:
        problem: The problem.
        method: Name of a search, of a schedule of masks or of a baseline, your own included; or a method itself.
        **options: Fields of the method's options and of :class:`evoprune.search.execution.Execution`.

    Returns:
        The mask, its trained network and the records.

    Raises:
        InputError: An unknown name, a value out of range, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the final training diverged.

    Example:
        >>> result = ep.prune(problem, "snip", sparsity=0.95)
    """
    return run(METHODS.name_of(method), find_method(method), problem, options)
