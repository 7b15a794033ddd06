"""What the figures of an evolution show, read from its run folder, which may still be growing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.terms import FITNESS
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations
from evoprune.system.files import require_own

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Spread:
    """An objective over the generations, each field one number a generation.

    Attributes:
        name: Name of the objective.
        gens: The generations.
        low, mean, high, std: Of the population.
        best: The best so far; None where it is not recorded.
    """

    name: str
    gens: list[int]
    low: list[float]
    mean: list[float]
    high: list[float]
    std: list[float]
    best: list[float] | None


@dataclass(frozen=True)
class Finals:
    """The masks that were the best of some generation, after the full training.

    Attributes:
        gens: The recorded generations that each was the best of, from the first to the last.
        fitness: Fitness of each, from the brief training.
        quality: Validation accuracy of each after the full training (minus the validation loss where there is none).
        is_accuracy: Which of the two.
        name: Name of the fitness.
        diverged: Number of masks whose full training left no quality, which no figure can show.
    """

    gens: list[tuple[int, int]]
    fitness: list[float]
    quality: list[float]
    is_accuracy: bool
    name: str
    diverged: int


@dataclass(frozen=True)
class Evaluated:
    """The evaluations of a run with several objectives.

    Attributes:
        names: Names of the first two objectives.
        objectives: Number of all objectives.
        points: Generation and first two objectives of each evaluation that has both.
        left_out: Number of the others: failed, or an objective is not finite.
    """

    names: tuple[str, str]
    objectives: int
    points: list[tuple[int, float, float]]
    left_out: int


def read_generations(folder: Path) -> Rows:
    """Reads ``generations.csv``: a row a generation.

    Raises:
        InputError: There is no such file, it has no rows yet, or it is not that of an evolution.
    """
    columns = ("gen", "nevals", "best", "min", "mean", "max", "std", "diversity", "chance_diversity")
    return _rows(folder / "generations.csv", columns)


def read_fitness(folder: Path) -> list[Spread]:
    """Reads the objectives over the generations; of those after the first, the ones that are recorded for each.

    Raises:
        InputError: See :func:`read_generations`.
    """
    rows, (first, *others) = read_generations(folder), _objectives(_config(folder))
    gens = [int(row["gen"]) for row in rows]
    prefixes = {first: "", **{name: f"{name}_" for name in others if f"{name}_mean" in rows[0]}}
    spreads = []
    for name, prefix in prefixes.items():
        low, mean, high, std = ([row[prefix + column] for row in rows] for column in ("min", "mean", "max", "std"))
        spreads.append(Spread(name, gens, low, mean, high, std, best=None if prefix else [row["best"] for row in rows]))
    return spreads


def read_finals(folder: Path) -> Finals:
    """Reads ``bests.csv``; generations that have the same best mask are one.

    Raises:
        InputError: There is no such file, or nothing in it to draw.
    """
    config, path = _config(folder), folder / "bests.csv"
    rows = _rows(path, ("gen", "mask", "fitness", "validation_accuracy", "validation_loss"))
    is_accuracy = not all(math.isnan(row["validation_accuracy"]) for row in rows)
    masks: dict[Any, Rows] = {}
    for row in sorted(rows, key=lambda row: float(row["gen"])):
        row["quality"] = row["validation_accuracy"] if is_accuracy else -row["validation_loss"]
        masks.setdefault((row["mask"], row["fitness"]), []).append(row)
    usable = [same for same in masks.values() if math.isfinite(same[0]["fitness"] + same[0]["quality"])]
    if not usable:
        raise InputError(
            f"{path} has no mask whose full training ended with a finite loss; expected one; lower the learning rate."
        )
    return Finals(
        gens=[(int(same[0]["gen"]), int(same[-1]["gen"])) for same in usable],
        fitness=[same[0]["fitness"] for same in usable],
        quality=[same[0]["quality"] for same in usable],
        is_accuracy=is_accuracy,
        name=_objectives(config)[0],
        diverged=len(masks) - len(usable),
    )


def read_survivors(folder: Path) -> dict[str, Rows]:
    """Reads ``layers.csv``: the rows of each layer, one a generation.

    Raises:
        InputError: There is no such file, or it is not that of an evolution.
    """
    layers: dict[str, Rows] = {}
    for row in _rows(folder / "layers.csv", ("gen", "layer", "size", "min", "mean", "max", "best")):
        layers.setdefault(str(row["layer"]), []).append(row)
    return layers


def read_evaluated(folder: Path) -> Evaluated:
    """Reads the first two objectives of each evaluation.

    Raises:
        InputError: The run has one objective only, or one that is not registered here, or no evaluation to draw.
    """
    config = _config(folder)
    names = _objectives(config)
    if len(names) < 2:
        raise InputError(
            f"{folder} holds a run with the one objective {names[0]!r}; expected two or more, of which there is a front; "
            f"give evolve several, or draw the fitness."
        )
    rows = read_evaluations(folder)
    usable = [(gen, e) for gen, e in rows if not e.has_failed]
    values = [(gen, _objective(names[0], e, config), _objective(names[1], e, config)) for gen, e in usable]
    points = [(gen, x, y) for gen, x, y in values if math.isfinite(x + y)]
    if not points:
        raise InputError(f"{folder / 'evaluations.csv'} has no finite {' and '.join(names[:2])}; expected a mask that trained.")
    return Evaluated((names[0], names[1]), len(names), points, len(rows) - len(points))


def _config(folder: Path) -> dict[str, Any]:
    require_own(folder)
    config = records.read_json(folder / "config.json")
    if config is None:
        raise InputError(f"{folder} holds no run; expected a folder with config.json, as evolve writes.")
    return config


def _rows(path: Path, columns: Sequence[str]) -> Rows:
    require_own(path.parent)
    if not path.exists():
        when = "when it ends" if path.name == "bests.csv" else "after each generation"
        raise InputError(f"{path.parent} holds no {path.name}, which evolve writes {when}; choose a run of evolve, or wait.")
    rows = records.read_table(path)
    if not rows:
        raise InputError(f"{path} has no rows; expected one a generation; wait until the run has finished its first.")
    if lacking := [column for column in columns if column not in rows[0]]:
        raise InputError(f"{path} lacks the columns {', '.join(lacking)}; expected the folder of a run of evolve.")
    return rows


def _objectives(config: Mapping[str, Any]) -> list[str]:
    fitness = config["settings"].get("fitness")
    if not fitness:
        raise InputError(f"config.json is of a run of {config.get('method')} without a fitness; expected a run of evolve.")
    return [fitness] if isinstance(fitness, str) else list(fitness)


def _objective(name: str, evaluation: Evaluation, config: Mapping[str, Any]) -> float:
    if name not in FITNESS:
        raise InputError(
            f"fitness {name!r} is not known here; expected one of {', '.join(FITNESS)}; register it as in the run."
        )
    return FITNESS[name].value(evaluation.values, config["divisors"])
