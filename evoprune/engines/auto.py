"""The choice of an engine from measured costs."""

from __future__ import annotations

import json
from pathlib import Path

from evoprune.engines.check import require
from evoprune.errors import InputError
from evoprune.problem.problem import Problem

# Written by `experiments/benchmark_engines.py --write-costs`: for each device and engine, seconds for each of ``features``.
COSTS = Path(__file__).with_name("costs.json")


def features(problem: Problem, sparsity: float, k: int) -> list[float]:
    """Returns the quantities that the time of a training step is a sum of.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights that is removed.
        k: Number of individuals.

    Returns:
        One step; individuals; dense weights times examples, and surviving weights times examples, both of all individuals.
    """
    weights, batch = problem.prunable_count, problem.recipe.batch_size
    return [1.0, float(k), float(k * weights * batch), k * (1 - sparsity) * weights * batch]


def choose(problem: Problem, sparsity: float, k: int) -> str:
    """Returns the name of the engine with the least expected time among those that can serve the problem.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights that is removed.
        k: Number of individuals that are trained together.
    """
    costs = json.loads(COSTS.read_text())
    kind = problem.device.partition(":")[0]
    if kind not in costs:
        # never measured here: such devices are made for dense products
        order = ["stacked", "module"]
    else:
        values = features(problem, sparsity, k)
        expected = {name: sum(c * v for c, v in zip(costs[kind][name], values, strict=True)) for name in costs[kind]}
        order = sorted(expected, key=lambda name: expected[name])
    for name in order:
        try:
            require(name, problem)
        except InputError:
            continue
        return name
    return "module"


def seconds(problem: Problem, engine: str, sparsity: float, k: int) -> float | None:
    """Return the expected time of a training step, in seconds; None for a device that was never measured.

    Args:
        problem: The problem.
        engine: Name of the engine.
        sparsity: Fraction of the prunable weights that is removed.
        k: Number of individuals that are trained together.
    """
    costs = json.loads(COSTS.read_text()).get(problem.device.partition(":")[0], {}).get(engine)
    return None if costs is None else sum(c * v for c, v in zip(costs, features(problem, sparsity, k), strict=True))


def resolve(name: str, problem: Problem, sparsity: float, k: int) -> str:
    """Returns the name of the engine; for ``auto``, the one that is chosen.

    Raises:
        InputError: An unknown name, or an engine that cannot serve the problem.
    """
    if name == "auto":
        return choose(problem, sparsity, k)
    require(name, problem)
    return name
