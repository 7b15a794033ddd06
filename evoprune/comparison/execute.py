"""One cell of a comparison, done."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evoprune import seeds
from evoprune.baselines.controls import redrawn, shuffled
from evoprune.comparison import methods
from evoprune.comparison.budget import epochs_within, resolve
from evoprune.comparison.cells import Cell, Comparison
from evoprune.comparison.methods import split_control
from evoprune.comparison.subject import Facts, Key, facts_difference, facts_of
from evoprune.engines import auto
from evoprune.errors import CollapseWarning, InputError, RunError
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.load import DATA
from evoprune.problem.models import MODELS
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.registry import Registry
from evoprune.search.course import carry_out, prepare_evaluator
from evoprune.search.execution import Execution
from evoprune.search.final import Plan
from evoprune.search.method import Found, require
from evoprune.search.session import Session
from evoprune.system import loading
from evoprune.workers.base import Workers


def make_problem(comparison: Comparison, cell: Cell, epochs: int | None = None) -> Problem:
    """Returns a cell's problem; the last few are kept, since loading data takes longer than many cells do.

    Raises:
        InputError: A value that cannot be served, or the problem is no longer the one that the comparison began with.
    """
    if comparison.subject is not None:
        problem = comparison.subject.problem(cell.seed)
        if epochs is not None:
            problem = problem.with_recipe(replace(problem.recipe, epochs=epochs))
    else:
        recipe = {**comparison.recipe, **({} if epochs is None else {"epochs": epochs})}
        names = [comparison.places.get(name, name) for name in (cell.model, cell.data)]
        problem = _make_problem(json.dumps([*names, cell.seed, recipe, comparison.problem], default=str), loading.sources())
    facts = comparison.facts.get(cell.problem_key)
    if facts is not None and (difference := facts_difference(facts, facts_of(problem), but="recipe" if epochs else "")):
        raise InputError(
            f"the problem of seed {cell.seed} is not the one that the comparison began with: {difference}. Expected data and "
            f"code that give the same each time: seed all that they draw."
        )
    return problem


@functools.lru_cache(maxsize=2)
def _make_problem(arguments: str, files: Sequence[loading.Source]) -> Problem:
    """Makes a problem of names; ``files`` are those that the names may be found in, as they are now."""
    model, data, seed, recipe, options = json.loads(arguments)
    return Problem(model, data, Recipe(**recipe), seed=seed, **options)


def forget_problems() -> None:
    """Drops the problems that are kept by name: a name that a user has registered may stand for another thing by now."""
    _make_problem.cache_clear()


def with_facts(comparison: Comparison, cells: Sequence[Cell]) -> Comparison:
    """Returns the comparison with the facts of the problems of all seeds, except for those of built-in names.

    Raises:
        InputError: A problem cannot be identified, or a function makes none of its seed.
    """
    facts: dict[Key, Facts] = {}
    for key, cell in {cell.problem_key: cell for cell in cells}.items():
        if comparison.subject is None and _is_built_in(MODELS, cell.model) and _is_built_in(DATA, cell.data):
            continue
        problem = make_problem(comparison, cell)
        if comparison.subject is not None:
            comparison.subject.remember(problem)
        facts[key] = facts_of(problem)
    return replace(comparison, facts=facts)


def _is_built_in(registry: Registry[Any], name: str) -> bool:
    """Tells whether the package itself brings the thing of a name, so that the name says all."""
    return name in registry and name not in registry.own


def problem_of(comparison: Comparison, cell: Cell) -> Problem | None:
    """Returns the problem of a cell, with as many epochs as fit the budget; None if the method does not fit it."""
    problem = make_problem(comparison, cell)
    if cell.budget is None:
        return problem
    epochs = epochs_within(problem, comparison, cell)
    return None if epochs is None else make_problem(comparison, cell, epochs)


def check_cells(comparison: Comparison, cells: Sequence[Cell]) -> list[Cell]:
    """Checks data, network, options and sparsities of all cells, before any is done.

    Returns:
        The cells that fit their budget.

    Raises:
        InputError: A value that cannot be served.
    """

    def kind(cell: Cell) -> tuple[Any, ...]:
        return cell.data, cell.base, cell.sparsity

    fitting = set()
    for cell in {kind(cell): cell for cell in cells}.values():
        problem = problem_of(comparison, cell)
        if problem is None:
            continue
        fitting.add(kind(cell))
        survivors_of(cell.sparsity, problem.prunable_count)
        auto.resolve(comparison.engine, problem, cell.sparsity, 1)
        method, options, execution = resolve(comparison, cell)
        require(method, problem, options)
        if not hasattr(method, "find"):
            prepare_evaluator(method, problem, cell.seed, options, execution)
    if not fitting:
        raise InputError(f"no method fits a budget of {cells[0].budget} epochs of dense training; expected a larger one.")
    return [cell for cell in cells if kind(cell) in fitting]


def run_cell(
    comparison: Comparison, cell: Cell, folder: Path, mask: Mask | None = None, workers: Workers | None = None
) -> None:
    """Does a cell and leaves its run folder; the folder's finished steps are not done again.

    Args:
        comparison: The settings that the cells share.
        cell: The cell.
        folder: Its run folder.
        mask: For a control, the mask of its method.
        workers: The processes that evaluate masks; None for this process.

    Raises:
        RunError: The search failed, or does not fit the budget.
    """
    problem = problem_of(comparison, cell)
    if problem is None:
        raise RunError(f"{cell.method} does not fit a budget of {cell.budget:g} dense epochs at sparsity {cell.sparsity:g}")
    base, control = split_control(cell.method)
    if control is not None:
        assert mask is not None
        _run_control(comparison, cell, problem, mask, folder)
        return
    variant, (method, options, execution) = methods.find(base), resolve(comparison, cell)
    who: Any = "serial" if workers is None else workers
    execution = replace(execution, out=folder, workers=who)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # the cell's note says it
        carry_out(variant.method, method, problem, options, execution)


@dataclass(frozen=True)
class ControlOptions:
    """Options of a sanity control.

    Attributes:
        control: Which control: restart, shuffled or redrawn.
        of: Hash of the method's mask.
        sparsity: The cell's sparsity.
        mask: The mask that is trained.
    """

    control: str
    of: str
    sparsity: float
    mask: Mask


class Control:
    """The training of a mask from W0, as a sanity control of the method that found it."""

    Options = ControlOptions

    def __init__(self, session: Session, options: ControlOptions) -> None:
        self.mask = options.mask

    def find(self) -> Found:
        """Returns the mask."""
        return Found(self.mask)

    @staticmethod
    def plan(problem: Problem, options: ControlOptions) -> Plan:
        """Returns how the mask is trained."""
        return Plan(restart=options.control == "restart")

    @staticmethod
    def settings(problem: Problem, options: ControlOptions) -> dict[str, Any]:
        """Returns the options as a run records them."""
        return {"control": options.control, "of": options.of, "sparsity": options.sparsity}


def _run_control(comparison: Comparison, cell: Cell, problem: Problem, mask: Mask, folder: Path) -> None:
    control = split_control(cell.method)[1] or ""
    trained = shuffled(mask, cell.seed) if control == "shuffled" else mask
    if control == "redrawn":
        problem = redrawn(problem, seeds.integer(cell.seed, "restart"))
    options = ControlOptions(control, mask.hash, cell.sparsity, trained)
    execution = Execution(engine=comparison.engine, threads=comparison.threads, out=folder, seed=cell.seed)
    carry_out(cell.method, Control, problem, options, execution)
