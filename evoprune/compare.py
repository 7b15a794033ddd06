"""The cells of a comparison: methods x sparsities x seeds x data, what each costs, and how one is done."""

from __future__ import annotations

import functools
import inspect
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evoprune import algorithms, seeds
from evoprune.baselines import BASELINES, redrawn, shuffled
from evoprune.dissipation import Dissipation
from evoprune.engines import auto
from evoprune.errors import CollapseWarning, InputError, RunError, look_up
from evoprune.evaluate import Workers
from evoprune.evidence import BATCH
from evoprune.evolution import RANDOM, Evolution
from evoprune.initialize import survivors_of
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.recipe import Recipe
from evoprune.search import Found, Plan, Where, check_k, train_found
from evoprune.starts import DISSIPATE, DISSIPATE_EPOCHS
from evoprune.toolbox import make_toolbox

# Sanity controls of a method's mask: what is trained from W0 instead of going on (Frankle et al. 2021, Su et al. 2020).
CONTROLS = ("restart", "shuffled", "redrawn")


# Options of the searches, which a comparison may set; what it does not set is the method's default.
SEARCH_OPTIONS = (
    "k", "fitness", "layer_densities", "fitness_epochs", "first_sparsity", "dissipate_epochs", "movement", "scope", "select",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        search: Called with the problem, options and where to record.
        options: Its options in the place of the function's defaults.
    """

    search: Callable[..., Any]
    options: Mapping[str, Any]


_ALONE = {"controls": False, "workers": "serial"}
_EVOLVE = {**_ALONE, "fitness": "loss", "trained_bests": 0}
# What was found best; see RESULTS.md.
_RISING = Evolution(k=2, offspring=4, generations=5, first_sparsity=0.8, drop="magnitude", among=1.2)
_FIXED = Evolution()
_DISSIPATED = replace(_RISING, start=("dissipate",))
_DISSIPATED_FIXED = Evolution(k=4, offspring=16, generations=10, start=("dissipate",), fraction=0.02, last_fraction=0.005)


def _random_search(evolution: Evolution, fitness_epochs: int) -> Method:
    """Returns the control of an evolution: the best of as many random masks."""
    options = {"k": evolution.most_evaluations, "fitness": "loss", "fitness_epochs": fitness_epochs}
    return Method(algorithms.k_starts, {**options, **_ALONE})


METHODS: dict[str, Method] = {
    **{name: Method(functools.partial(algorithms.baseline, method=name), {}) for name in BASELINES},
    "kstarts": Method(algorithms.k_starts, _ALONE),
    "dissipate": Method(algorithms.dissipate, {}),
    "dissipate-relative": Method(algorithms.dissipate, {"movement": "relative"}),
    "random-dropout": Method(algorithms.dissipate, {"movement": "random"}),
    "combine": Method(algorithms.combine, _ALONE),
    "evolve": Method(algorithms.evolve, {**_EVOLVE, "evolution": _RISING, "fitness_epochs": 5}),
    "evolve-fixed": Method(algorithms.evolve, {**_EVOLVE, "evolution": _FIXED, "fitness_epochs": 1}),
    "evolve-dissipated": Method(algorithms.evolve, {**_EVOLVE, "evolution": _DISSIPATED, "fitness_epochs": 5}),
    "evolve-dissipated-fixed": Method(algorithms.evolve, {**_EVOLVE, "evolution": _DISSIPATED_FIXED, "fitness_epochs": 2}),
    "random-search": _random_search(_RISING, 5),
    "random-search-fixed": _random_search(_FIXED, 1),
}


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        method: A name of :data:`METHODS`, or one with ``-restart``, ``-shuffled`` or ``-redrawn`` behind it.
        data: Name of the data set.
        model: Name of the network.
        sparsity: The asked sparsity; 0 for ``dense``.
        seed: Seed of problem and run.
        budget: Multiply-adds of search and training, in epochs of dense training; None: the recipe's epochs, search on top.
    """

    method: str
    data: str
    model: str
    sparsity: float
    seed: int
    budget: float | None = None

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        budget = "" if self.budget is None else f"-budget{self.budget:g}"
        return f"{self.method}-{self.data}-{self.model}-{self.sparsity:g}-{self.seed}{budget}"

    @property
    def base(self) -> str:
        """The method whose mask it has: itself, or the method that it is a control of."""
        return split_control(self.method)[0]

    @property
    def keys(self) -> tuple[Any, ...]:
        """What tells it from other cells, as in the columns of a table."""
        return (self.method, self.data, self.model, self.sparsity, self.seed, self.budget)


@dataclass(frozen=True)
class Comparison:
    """What the cells share.

    Attributes:
        problem: Arguments of :class:`evoprune.problem.Problem` beside model, data, seed and recipe.
        recipe: Fields of the recipe.
        search: Options of the searches; each method takes those that it knows.
        engine: Name of the engine, or ``auto``.
        threads: Threads of torch.
    """

    problem: Mapping[str, Any]
    recipe: Mapping[str, Any]
    search: Mapping[str, Any]
    engine: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        place = self.problem.get("data_dir")
        if place is not None:  # workers may be in another folder
            object.__setattr__(self, "problem", {**self.problem, "data_dir": str(Path(place).expanduser().absolute())})

    def settings(self) -> dict[str, Any]:
        """Returns what decides a cell's result, as JSON values."""
        problem = {name: value for name, value in self.problem.items() if name != "data_dir"}
        settings = {"problem": problem, "recipe": self.recipe, "engine": self.engine}
        return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


def split_control(method: str) -> tuple[str, str | None]:
    """Returns a method's name and, where it is a sanity control of another, which one."""
    base, _, control = method.rpartition("-")
    return (base, control) if control in CONTROLS and base in METHODS else (method, None)


def make_cells(
    methods: Sequence[str],
    data: Sequence[str],
    model: str,
    sparsities: Sequence[float],
    seeds_: Sequence[int],
    budget: float | None = None,
) -> list[Cell]:
    """Returns the cells of a table, seed by seed; a control comes after its method.

    Raises:
        InputError: An unknown method, or nothing to compare.
    """
    for method in methods:
        look_up("method", split_control(method)[0], METHODS)
    for name, values in (("methods", methods), ("data", data), ("sparsities", sparsities), ("seeds", seeds_)):
        if not values:
            raise InputError(f"no {name} are given; expected at least one.")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise InputError(f"budget is {budget}; expected a number of epochs of dense training above 0, such as 3.")
    ordered = sorted(dict.fromkeys(methods), key=lambda method: split_control(method)[1] is not None)
    cells = [
        Cell(method, name, model, 0.0 if split_control(method)[0] == "dense" else float(sparsity), seed, budget)
        for seed in seeds_
        for name in data
        for sparsity in sparsities
        for method in ordered
    ]
    return list(dict.fromkeys(cells))


def make_problem(comparison: Comparison, cell: Cell, epochs: int | None = None) -> Problem:
    """Returns a cell's problem; the last few are kept, since loading data takes longer than many a cell."""
    recipe = {**comparison.recipe, **({} if epochs is None else {"epochs": epochs})}
    return _make_problem(json.dumps([cell.model, cell.data, cell.seed, recipe, comparison.problem], default=str))


@functools.lru_cache(maxsize=2)
def _make_problem(arguments: str) -> Problem:
    model, data, seed, recipe, options = json.loads(arguments)
    return Problem(model, data, Recipe(**recipe), seed=seed, **options)


def options_of(comparison: Comparison, method: str) -> dict[str, Any]:
    """Returns the options with which a method is called: its own, those of the comparison's that it knows, and the defaults."""
    entry = METHODS[method]
    names = inspect.signature(entry.search).parameters
    defaults = {name: names[name].default for name in SEARCH_OPTIONS if name in names}
    return defaults | {name: value for name, value in comparison.search.items() if name in names} | dict(entry.options)


def planned_cost(problem: Problem, comparison: Comparison, cell: Cell) -> Callable[[int], float]:
    """Returns what a method will cost as a function of its epochs, in epochs of dense training; infinite for too few.

    Counted on surviving weights, which is exact where every weight is used equally often by an example.
    """
    density = 1 - cell.sparsity
    if cell.base in BASELINES:
        baseline = BASELINES[cell.base]
        return lambda epochs: baseline.search_cost(problem, cell.sparsity, epochs) + epochs * density
    options = options_of(comparison, cell.base)
    if "evolution" in options:
        return _cost_of_evolution(problem, options["evolution"], options["fitness_epochs"], cell.sparsity)
    first = 1 - options.get("first_sparsity", cell.sparsity if "k" in options else 0.0)
    removals = options.get("dissipate_epochs", 0)
    brief = options.get("fitness_epochs", 0)
    # densities of a start, epoch by epoch, until it is as sparse as in the end
    course = [first * (density / first) ** (i / removals) for i in range(removals)]
    if options.get("select") != "end":
        course = [first] * (brief - 1 if removals else brief) + course
    course += [density] * (brief - len(course))
    least = max(1, len(course))
    others = (options.get("k", 1) - 1) * sum(course[:brief])
    return lambda epochs: math.inf if epochs < least else others + sum(course) + (epochs - len(course)) * density


def _cost_of_evolution(problem: Problem, evolution: Evolution, brief: int, sparsity: float) -> Callable[[int], float]:
    """Returns what an evolution costs at most: children that were there before cost nothing."""
    n, weights, density = len(problem.part("train")[0]), problem.prunable_count, 1 - sparsity
    kept = [evolution.survivors_at(gen, sparsity, weights) for gen in range(1, evolution.generations + 1)]
    densities = [density if survivors is None else survivors / weights for survivors in kept]
    briefs = evolution.first * (1 - evolution.begin(sparsity)) + evolution.children * sum(densities)
    evidence = min(BATCH, n) / n if evolution.evidence(sparsity) else 0.0
    search = (briefs - density) * brief + evolution.most_evaluations * evidence
    baselines = [BASELINES[name] for name in evolution.names if name in BASELINES and name != RANDOM]

    def cost(epochs: int) -> float:
        removals = min(DISSIPATE_EPOCHS, epochs) if DISSIPATE in evolution.names else 0
        begin = evolution.begin(sparsity)
        starts = [(1 - begin) ** (i / removals) for i in range(removals)]
        starts += [baseline.search_cost(problem, begin, epochs) for baseline in baselines]
        return math.inf if epochs < brief else search + sum(starts) + epochs * density

    return cost


def epochs_within(problem: Problem, comparison: Comparison, cell: Cell) -> int | None:
    """Returns the most epochs with which search and training stay within the cell's budget; None where it does not fit."""
    assert cell.budget is not None
    cost = planned_cost(problem, comparison, cell)
    most = int(cell.budget / (1 - cell.sparsity)) + 1
    return next((epochs for epochs in range(most, 0, -1) if cost(epochs) <= cell.budget), None)


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
