"""A comparison: methods x sparsities x seeds x data, a run folder a cell, and the tables that its figures are drawn from.

A cell is finished where ``cells.csv`` has its row, so a comparison can be gone on with where the run folders are not at hand.
Several processes may work on one comparison: a cell that another one is at is left to it.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evoprune import algorithms, records, seeds
from evoprune.baselines import BASELINES, redrawn, shuffled
from evoprune.errors import InUseError, RunError, look_up
from evoprune.initialize import survivors_of
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.recipe import Recipe
from evoprune.search import Found, Plan, Where, train_found

# Sanity controls of a method's mask: what is trained from W0 instead of going on (Frankle et al. 2021, Su et al. 2020).
CONTROLS = ("restart", "shuffled", "redrawn")


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        search: Called with the problem, options and where to record.
        options: Its options in the place of the function's defaults.
    """

    search: Callable[..., Any]
    options: Mapping[str, Any]


METHODS: dict[str, Method] = {
    **{name: Method(functools.partial(algorithms.baseline, method=name), {}) for name in BASELINES},
    "kstarts": Method(algorithms.k_starts, {"controls": False, "workers": "serial"}),
    "dissipate": Method(algorithms.dissipate, {}),
    "dissipate-relative": Method(algorithms.dissipate, {"movement": "relative"}),
    "random-dropout": Method(algorithms.dissipate, {"movement": "random"}),
    "combine": Method(algorithms.combine, {"controls": False, "workers": "serial"}),
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

    def settings(self) -> dict[str, Any]:
        """Returns what decides a cell's result, as JSON values."""
        problem = {name: value for name, value in self.problem.items() if name != "data_dir"}
        settings = {"problem": problem, "recipe": self.recipe, "search": self.search, "engine": self.engine}
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
        InputError: An unknown method or a sparsity out of range.
    """
    for method in methods:
        look_up("method", split_control(method)[0], METHODS)
    for sparsity in sparsities:
        survivors_of(sparsity, 10**9)
    ordered = sorted(dict.fromkeys(methods), key=lambda method: split_control(method)[1] is not None)
    cells = [
        Cell(method, name, model, 0.0 if method == "dense" else float(sparsity), seed, budget)
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
    """Returns the options with which a method is called: its own, and those of the comparison's that it knows."""
    entry = METHODS[method]
    names = inspect.signature(entry.search).parameters
    return {name: value for name, value in comparison.search.items() if name in names} | dict(entry.options)


def planned_cost(problem: Problem, comparison: Comparison, cell: Cell) -> Callable[[int], float]:
    """Returns what a method will cost as a function of its epochs, in epochs of dense training; infinite for too few.

    Counted on surviving weights, which is exact where every weight is used equally often by an example.
    """
    density = 1 - cell.sparsity
    if cell.base in BASELINES:
        found = BASELINES[cell.base].search_cost(problem, cell.sparsity)
        return lambda epochs: found + epochs * density
    parameters = inspect.signature(METHODS[cell.base].search).parameters
    options = {name: p.default for name, p in parameters.items()} | options_of(comparison, cell.base)
    first = {"kstarts": density, "combine": 1 - options.get("first_sparsity", 0.0)}.get(cell.base, 1.0)
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


def epochs_within(problem: Problem, comparison: Comparison, cell: Cell) -> int | None:
    """Returns the most epochs with which search and training stay within the cell's budget; None where it does not fit."""
    assert cell.budget is not None
    cost = planned_cost(problem, comparison, cell)
    most = int(cell.budget / (1 - cell.sparsity)) + 1
    return next((epochs for epochs in range(most, 0, -1) if cost(epochs) <= cell.budget), None)


def run_cell(comparison: Comparison, cell: Cell, folder: Path, mask: Mask | None = None) -> None:
    """Does a cell and leaves its run folder; what the folder has is not done again.

    Args:
        comparison: What the cells share.
        cell: The cell.
        folder: Its run folder.
        mask: For a control, the mask of its method.

    Raises:
        RunError: The search failed, or does not fit the budget.
    """
    problem = make_problem(comparison, cell)
    if cell.budget is not None:
        epochs = epochs_within(problem, comparison, cell)
        if epochs is None:
            raise RunError(f"{cell.method} does not fit a budget of {cell.budget:g} dense epochs at sparsity {cell.sparsity:g}")
        problem = make_problem(comparison, cell, epochs)
    if split_control(cell.method)[1] is not None:
        assert mask is not None
        _run_control(comparison, cell, problem, mask, folder)
        return
    options = {"engine": comparison.engine, "threads": comparison.threads, **options_of(comparison, cell.method)}
    METHODS[cell.method].search(problem, sparsity=cell.sparsity, out=folder, **options)


def _run_control(comparison: Comparison, cell: Cell, problem: Problem, mask: Mask, folder: Path) -> None:
    control = split_control(cell.method)[1]
    settings = {"control": control, "of": mask.hash, "sparsity": cell.sparsity}
    found = Found(shuffled(mask, cell.seed) if control == "shuffled" else mask, 0.0)
    if control == "redrawn":
        problem = redrawn(problem, seeds.integer(cell.seed, "restart"))
    where = Where("serial", comparison.threads, folder, False, False)
    train_found(problem, Plan(cell.method, 1, restart=True), lambda: found, settings, cell.seed, comparison.engine, where)


def compute_cell(comparison: Comparison, cell: Cell, packed: bytes | None) -> tuple[str, Any]:
    """Does a cell in a worker, which writes no run folder of the origin's. Raises nothing: SCOOP would lose the traceback.

    Args:
        comparison: What the cells share.
        cell: The cell.
        packed: For a control, the mask of its method, as :meth:`evoprune.mask.Mask.save` writes it.

    Returns:
        ``("ok", content of the run folder's files by name)``, ``("failed", reason)``, or ``("error", traceback)``.
    """
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder, given = Path(temporary, "run"), Path(temporary, "mask.npz")
            if packed is not None:
                given.write_bytes(packed)
            run_cell(comparison, cell, folder, None if packed is None else Mask.load(given))
            files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
            return "ok", {path.name: path.read_bytes() for path in files}
    except RunError as error:
        return "failed", str(error)
    except Exception:  # noqa: BLE001 - returned to the origin, which raises it
        return "error", traceback.format_exc()


def serial_cells(comparison: Comparison, cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
    """Does cells in this process, each in its run folder; yields each with the reason if it failed."""
    for cell in cells:
        try:
            run_cell(comparison, cell, folder / cell.folder, _mask_of_base(cell, folder))
            yield cell, ""
        except InUseError:
            continue
        except RunError as error:
            yield cell, str(error)


def scoop_cells(comparison: Comparison, cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
    """Does cells on SCOOP's workers, and writes their run folders; a control waits until its method's cell is there.

    Raises:
        RunError: A worker met an error that is not the cell's own; the message has its traceback.
    """
    from scoop import futures

    controls = [cell for cell in cells if split_control(cell.method)[1] is not None]
    for part in ([cell for cell in cells if cell not in controls], controls):
        waiting = {futures.submit(compute_cell, comparison, cell, _packed_base(cell, folder)): cell for cell in part}
        for future in futures.as_completed(list(waiting)):
            cell = waiting[future]
            outcome, content = future.result()
            if outcome == "error":
                raise RunError(f"a worker could not do {cell.folder}:\n{content}")
            if outcome == "failed":
                yield cell, content
                continue
            target = folder / cell.folder
            target.mkdir(parents=True, exist_ok=True)
            for name in sorted(content, key=lambda name: name == "result.json"):  # last: it says that the cell is finished
                records.write_atomically(target / name, content[name])
            yield cell, ""


def _mask_of_base(cell: Cell, folder: Path) -> Mask | None:
    """Returns the mask of the method that the cell is a control of; None where it is none.

    Raises:
        RunError: It is not there.
    """
    if split_control(cell.method)[1] is None:
        return None
    path = folder / replace(cell, method=cell.base).folder / "mask.npz"
    if not path.exists():
        raise RunError(f"{cell.method} needs the mask of {cell.base}, but there is no {path}; run {cell.base}, too.")
    return Mask.load(path)


def _packed_base(cell: Cell, folder: Path) -> bytes | None:
    if _mask_of_base(cell, folder) is None:
        return None
    return (folder / replace(cell, method=cell.base).folder / "mask.npz").read_bytes()
