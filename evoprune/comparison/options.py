"""Options of a comparison, and the comparison that they describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from evoprune.comparison import course
from evoprune.comparison.cells import Cell, Comparison, make_cells
from evoprune.comparison.frames import read_cells
from evoprune.comparison.subject import Subject, cell_name
from evoprune.errors import InputError, look_up
from evoprune.options import check_sizes, later_of, make, split
from evoprune.problem.load import DATA
from evoprune.problem.models import MODELS, usual_initialization
from evoprune.problem.options import ProblemOptions
from evoprune.problem.problem import Problem
from evoprune.problem.readers.place import located
from evoprune.problem.recipe import Recipe
from evoprune.registry import Registry, describe
from evoprune.seeds import check_seed
from evoprune.system import loading


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison."""

    data: tuple[str, ...] = ("digits",)
    """Data sets: digits (embedded), mnist, fashion-mnist, cifar10 and all others by name, image-folder:PATH, or one that you
    registered. For data of a file of yours give path/to/file.py:function."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """Fractions of the prunable weights to remove."""
    methods: tuple[str, ...] = ("dense", "lottery-ticket", "dissipate", "combine", "kstarts", "snip", "grasp", "synflow",
                                "magnitude", "erk", "random", "random-dropout")  # fmt: skip
    """Methods: dense, lottery-ticket (one-shot), lottery-ticket-5 (iterative, 5 rounds), dissipate, dissipate-relative,
    combine, kstarts, evolve (sparsity rises), evolve-fixed (it does not), evolve-dissipated and evolve-dissipated-fixed (from
    the mask that dissipate leaves), random-search and random-search-fixed (the best of as many random masks as evolve and
    evolve-fixed evaluate), snip, grasp, synflow, magnitude, erk, random, random-dropout (dissipating weights drawn at random),
    or a method, baseline or schedule that you registered. With -restart (from W0 in another order of the batches), -shuffled
    (within each layer) or -redrawn (from another W0) behind it, the method's mask is trained instead, as a sanity control."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = field(default=0, metadata={"any_size": True})
    """The first of the seeds; the others follow."""
    budget: float | None = None
    """Give all methods the same total of multiply-adds on surviving weights, search included, in epochs of dense training; a
    method that does not fit is left out. None: --epochs for all, search on top."""
    k: int | None = None
    """Number of random masks of kstarts and combine. None: each method's default, as for the options that follow."""
    fitness: str | None = None
    """Fitness of kstarts and combine."""
    fitness_epochs: int | None = None
    """Epochs of the brief training of kstarts and combine."""
    first_sparsity: float | None = None
    """Sparsity of the random masks of combine."""
    dissipate_epochs: int | None = None
    """Number of removals of dissipate and combine. None: 8, but not more than the first half of --epochs."""
    engine: str = "auto"
    """How masked networks are trained: module, stacked, sparse, or auto (the one with the least measured cost)."""
    threads: int = 1
    """Threads of torch in every process."""
    workers: str = "auto"
    """The processes that do the cells: serial, scoop, auto (SCOOP under `python -m evoprune.scoop`, else serial), pool:N (N
    processes on this machine), dask:N (a local Dask cluster of N processes) or the address of a Dask scheduler. If there are
    fewer cells than workers, the workers of a pool or of Dask share the masks of each cell."""
    devices: tuple[str, ...] = ()
    """GPUs of this machine, such as cuda:0 cuda:1, one for each process of pool:N or dask:N; each process sees its own alone.
    For SCOOP they are an option of its launcher. None: all processes share the default GPU."""
    out: Path = Path("runs/compare")
    """Folder of the comparison. Running again continues it; methods, sparsities, seeds and data may be added."""


SEARCH = ("k", "fitness", "fitness_epochs", "first_sparsity", "dissipate_epochs")


def plan(options: CompareOptions, problem: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[Comparison, list[Cell]]:
    """Returns the comparison that options describe, and its cells.

    Args:
        options: The options.
        problem: Fields of :class:`evoprune.problem.options.ProblemOptions`; data and seed are those of the comparison.
        recipe: Fields of the recipe, as they were given.

    Raises:
        InputError: An unknown method, or nothing to compare.
    """
    check_sizes(options)
    _require_names(recipe)
    names, data_dir = _located(options.data, problem.get("data_dir"))
    shared = {name: value for name, value in {**problem, "data_dir": data_dir}.items() if name not in ("data", "seed", "model")}
    later = later_of(Recipe) | later_of(ProblemOptions)
    shared = {name: value for name, value in shared.items() if later.get(name, ...) != value}
    if not all(isinstance(name, str) for name in shared.get("metrics", ())):
        raise InputError("metrics of a comparison are given by name; register your own by ep.register.metric.")
    in_file = MODELS.is_in_file(problem["model"])  # whose initial weights are its own
    usual = "given" if in_file else usual_initialization(problem["model"])
    shared["initialization"] = shared["initialization"] or usual
    fields = {name: value for name, value in recipe.items() if later.get(name, ...) != value and (name != "options" or value)}
    places: dict[str, str] = {}
    model = _cell_name(MODELS, problem["model"], places)
    data = [_cell_name(DATA, name, places) for name in names]
    settings = dict(sorted(shared.items())), dict(sorted(fields.items())), _search(options)
    comparison = Comparison(*settings, options.engine, options.threads, places=places)
    return comparison, _cells(options, data, model)


def plan_of(options: CompareOptions, subject: Subject) -> tuple[Comparison, list[Cell]]:
    """Returns the comparison on the user's own problems that options describe, and its cells.

    Raises:
        InputError: An unknown method, or nothing to compare.
    """
    check_sizes(options)
    first = subject.problem(check_seed(options.first_seed)).options
    data, model = cell_name(first.data), cell_name(first.model)
    names = {"data": data, "model": model}
    comparison = Comparison(names, {}, _search(options), options.engine, options.threads, subject)
    return comparison, _cells(options, [data], model)


def _search(options: CompareOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in SEARCH if getattr(options, name) is not None}


def _cells(options: CompareOptions, data: Sequence[str], model: str) -> list[Cell]:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return make_cells(options.methods, data, model, options.sparsities, seeds, options.budget)


def _cell_name(registry: Registry[Any], given: str, places: dict[str, str]) -> str:
    """Returns the name of a network or data set in cells, and enters the name by which the problem finds it if it is another.

    Raises:
        InputError: Two files would have the same name.
    """
    name = cell_name(registry.name_of(given))
    place = loading.full_name(given) if registry.is_in_file(given) else given
    if places.setdefault(name, place) != place:
        raise InputError(f"{places[name]} and {place} are both called {name}; expected files of different names.")
    if name == place:
        del places[name]
    return name


def _located(data: Sequence[str], data_dir: Any) -> tuple[list[str], Any]:
    """Returns the names of data sets without places, and the folder in which all of them are."""
    found = [located(name, data_dir) for name in data]
    places = {place and str(Path(place).expanduser().absolute()) for _, place in found}
    if len(places) > 1:
        raise InputError(
            f"the data {', '.join(data)} lie in several folders; expected one: put folders of images beside the other data, "
            f"and name that folder with --data-dir, or compare on them apart."
        )
    return [name for name, _ in found], places.pop() if places else data_dir


def _require_names(recipe: Mapping[str, Any]) -> None:
    """Checks that a recipe says by name what a table can say."""
    for name in ("schedule", "optimizer"):
        if not isinstance(recipe.get(name, ""), str):
            raise InputError(
                f"{name} is {describe(recipe[name])}; a comparison takes names: register it, "
                f"ep.register.{'learning_rate' if name == 'schedule' else name}('mine', ...), and give 'mine'."
            )


def compare(
    problem: Problem | Callable[..., Problem] | None = None, methods: Sequence[str] | None = None, **options: Any
) -> pd.DataFrame:
    """Compares methods over sparsities, seeds and data sets; only missing cells are done.

    Args:
        problem: The problem to compare them on, whose seed is replaced by each of the comparison's; the W0 of a given module
            stays the same for each seed. Or a function that takes a seed and returns the problem of that seed. None: problems
            by name, of the options that follow.
        methods: Names of methods; None for those of :class:`evoprune.comparison.options.CompareOptions`.
        **options: Further fields of :class:`evoprune.comparison.options.CompareOptions`, and without a problem those of
            :class:`evoprune.problem.options.ProblemOptions` and of :class:`evoprune.Recipe`.

    Returns:
        The rows of ``cells.csv``, one a cell.

    Raises:
        InputError: A value that cannot be served, or ``out`` holds a comparison with other settings or on other problems.
        RunError: A worker failed.

    Example:
        >>> ep.compare(methods=("snip", "erk"), sparsities=(0.9, 0.95), seeds=3, out="runs/mine")
        >>> ep.compare(problem, ("snip", "erk"), sparsities=(0.9, 0.95), seeds=3, out="runs/mine")
        >>> ep.compare(lambda seed: ep.Problem(Net(), data, seed=seed), ("snip", "erk"), out="runs/mine")
    """
    known = {name: True for kind in (CompareOptions, ProblemOptions, Recipe) for name in defaults_of(kind)}
    for name in options:
        look_up("option", name, known)
    given = options if methods is None else {**options, "methods": methods}
    chosen = make(CompareOptions, {name: value for name, value in given.items() if name in defaults_of(CompareOptions)})
    rest = {name: value for name, value in options.items() if name not in defaults_of(CompareOptions)}
    comparison, wanted = _plan_by_name(chosen, rest) if problem is None else _plan_on(chosen, problem, options)
    folder = Path(chosen.out).absolute()
    course.compare(comparison, wanted, folder, chosen.workers, chosen.devices)
    return read_cells(folder / "cells.csv")


def _plan_by_name(chosen: CompareOptions, rest: Mapping[str, Any]) -> tuple[Comparison, list[Cell]]:
    split((ProblemOptions, Recipe), rest)  # refuses bad values now
    problem, recipe = (
        {name: rest.get(name, default) for name, default in defaults_of(kind).items()} for kind in (ProblemOptions, Recipe)
    )
    return plan(chosen, problem, recipe)


def _plan_on(chosen: CompareOptions, problem: Any, options: Mapping[str, Any]) -> tuple[Comparison, list[Cell]]:
    own = {name for kind in (ProblemOptions, Recipe) for name in defaults_of(kind)}
    if wrong := [name for name in options if name in own]:
        raise InputError(f"{', '.join(wrong)} cannot be given beside a problem, which has its own; give it to ep.Problem.")
    return plan_of(chosen, Subject(problem))


def defaults_of(kind: type[Any]) -> dict[str, Any]:
    """Returns the defaults of a dataclass's fields by name; an empty mapping for those that are made."""
    fields = dataclasses.fields(kind)
    return {field.name: {} if field.default is dataclasses.MISSING else field.default for field in fields}
