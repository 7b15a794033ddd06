"""The cells of a comparison: methods x sparsities x seeds x data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoprune.comparison.methods import find, split_control
from evoprune.comparison.subject import Facts, Key, Subject
from evoprune.errors import InputError
from evoprune.options import MOST_COUNT

# The recipe of a problem that was given as an object, in the settings.
GIVEN = "given"


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        method: A name of :func:`evoprune.comparison.methods.names`, or one with the ending ``-restart``,
            ``-shuffled`` or ``-redrawn``.
        data: Name of the data set.
        model: Name of the network.
        sparsity: The requested sparsity; 0 for ``dense``.
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
        name = f"{self.method}-{self.data}-{self.model}-{self.sparsity:g}-{self.seed}{budget}"
        return name.replace(":", "-")

    @property
    def base(self) -> str:
        """The method whose mask it has: itself, or the method that it is a control of."""
        return split_control(self.method)[0]

    @property
    def problem_key(self) -> Key:
        """The values that identify its problem."""
        return self.data, self.model, self.seed

    @property
    def keys(self) -> tuple[Any, ...]:
        """The values that identify it, as in the columns of a table."""
        return (self.method, self.data, self.model, self.sparsity, self.seed, self.budget)


@dataclass(frozen=True)
class Comparison:
    """The settings that the cells share.

    Attributes:
        problem: Arguments of :class:`evoprune.problem.problem.Problem` beside model, data, seed and recipe; or, where the
            problem is given, the names of model and data.
        recipe: Fields of the recipe.
        search: Options of the searches; each method takes those that it knows.
        engine: Name of the engine, or ``auto``.
        threads: Threads of torch.
        subject: The problem that is given, with its recipe; None for problems by name.
        places: The networks and data sets that a cell names otherwise than the problem does, by the cell's name.
        facts: Those by which problems of the user's own are known again, by :attr:`Cell.problem_key`; none for built-in names.
    """

    problem: Mapping[str, Any]
    recipe: Mapping[str, Any]
    search: Mapping[str, Any]
    engine: str = "auto"
    threads: int = 1
    subject: Subject | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[Key, Facts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = self.problem.get("data_dir")
        if place is not None:  # workers may be in another folder
            object.__setattr__(self, "problem", {**self.problem, "data_dir": str(Path(place).expanduser().absolute())})

    def settings(self) -> dict[str, Any]:
        """Returns the settings that decide a cell's result beside its problem's facts, as JSON values."""
        problem = {name: value for name, value in self.problem.items() if name != "data_dir"}
        settings = {"problem": problem, "recipe": self.recipe if self.subject is None else GIVEN, "engine": self.engine}
        return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


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
        find(split_control(method)[0])
    for name, values in (("methods", methods), ("data", data), ("sparsities", sparsities), ("seeds", seeds_)):
        if not values:
            raise InputError(f"no {name} are given; expected at least one.")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise InputError(f"budget is {budget}; expected a number of epochs of dense training above 0, such as 3.")
    if (count := len(methods) * len(data) * len(sparsities) * len(seeds_)) > MOST_COUNT:
        raise InputError(f"the comparison has {count:,} cells; expected at most {MOST_COUNT:,}.")
    ordered = sorted(dict.fromkeys(methods), key=lambda method: split_control(method)[1] is not None)
    cells = [
        Cell(method, name, model, 0.0 if split_control(method)[0] == "dense" else float(sparsity), seed, budget)
        for seed in seeds_
        for name in data
        for sparsity in sparsities
        for method in ordered
    ]
    places: dict[str, Cell] = {}
    for cell in dict.fromkeys(cells):
        other = places.setdefault(cell.folder, cell)
        if other != cell:
            near = f"{other.sparsity!r} and {cell.sparsity!r}"
            raise InputError(f"sparsities {near} would have the same folder; expected others.")
    return list(places.values())
