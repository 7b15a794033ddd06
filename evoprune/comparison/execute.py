"""One cell of a comparison, done."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evoprune import seeds
from evoprune.baselines.controls import redrawn, shuffled
from evoprune.comparison.budget import epochs_within, options_of
from evoprune.comparison.cells import Cell, Comparison
from evoprune.comparison.methods import METHODS, split_control
from evoprune.engines import auto
from evoprune.errors import CollapseWarning, RunError
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.search.kstarts import check_k
from evoprune.search.one_mask import Found, train_found
from evoprune.search.session import Plan, Where
from evoprune.search.toolbox import make_toolbox
from evoprune.training.dissipation import Dissipation
from evoprune.workers.base import Workers


def make_problem(comparison: Comparison, cell: Cell, epochs: int | None = None) -> Problem:
    """Returns a cell's problem; the last few are kept, since loading data takes longer than many a cell."""
    recipe = {**comparison.recipe, **({} if epochs is None else {"epochs": epochs})}
    return _make_problem(json.dumps([cell.model, cell.data, cell.seed, recipe, comparison.problem], default=str))


@functools.lru_cache(maxsize=2)
def _make_problem(arguments: str) -> Problem:
    model, data, seed, recipe, options = json.loads(arguments)
    return Problem(model, data, Recipe(**recipe), seed=seed, **options)


def problem_of(comparison: Comparison, cell: Cell) -> Problem | None:
    """Returns the problem that a cell is done on, its epochs by the budget; None for a method that does not fit the budget."""
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
        options = options_of(comparison, cell.base)
        searches = "k" in options or "evolution" in options
        first = options.get("first_sparsity", cell.sparsity if searches else 0.0)
        if "k" in options:
            check_k(options["k"])
        if "evolution" in options:
            options["evolution"].require(cell.sparsity, problem.prunable_count, 1)
        if searches:
            names = ("fitness", "layer_densities", "fitness_epochs")
            make_toolbox(problem, sparsity=first, **{name: options[name] for name in names}, workers="serial")
        if "dissipate_epochs" in options:
            start = max(1, options["fitness_epochs"]) if options.get("select") == "start" else 1
            rest = {name: options[name] for name in ("movement", "scope") if name in options}
            Dissipation(options["dissipate_epochs"], cell.sparsity, first=start, **rest).require(problem, first)
    return [cell for cell in cells if kind(cell) in fitting]


def run_cell(
    comparison: Comparison, cell: Cell, folder: Path, mask: Mask | None = None, workers: Workers | None = None
) -> None:
    """Does a cell and leaves its run folder; what the folder has is not done again.

    Args:
        comparison: What the cells share.
        cell: The cell.
        folder: Its run folder.
        mask: For a control, the mask of its method.
        workers: Who evaluates masks; None for this process.

    Raises:
        RunError: The search failed, or does not fit the budget.
    """
    problem = problem_of(comparison, cell)
    if problem is None:
        raise RunError(f"{cell.method} does not fit a budget of {cell.budget:g} dense epochs at sparsity {cell.sparsity:g}")
    if split_control(cell.method)[1] is not None:
        assert mask is not None
        _run_control(comparison, cell, problem, mask, folder)
        return
    options = {"engine": comparison.engine, "threads": comparison.threads, **options_of(comparison, cell.method)}
    if workers is not None and "workers" in options:
        options["workers"] = workers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # the cell's note says it
        METHODS[cell.method].search(problem, sparsity=cell.sparsity, out=folder, **options)


def _run_control(comparison: Comparison, cell: Cell, problem: Problem, mask: Mask, folder: Path) -> None:
    control = split_control(cell.method)[1]
    settings = {"control": control, "of": mask.hash, "sparsity": cell.sparsity}
    found = Found(shuffled(mask, cell.seed) if control == "shuffled" else mask, 0.0)
    if control == "redrawn":
        problem = redrawn(problem, seeds.integer(cell.seed, "restart"))
    where = Where("serial", comparison.threads, folder, False, False)
    plan = Plan(cell.method, 1, restart=control == "restart")
    train_found(problem, plan, lambda: found, settings, cell.seed, comparison.engine, where)
