"""The choice of an engine from measured costs."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pooch
import torch
from torch import nn

from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError
from evoprune.masks.random import layer_survivors
from evoprune.problem.problem import Problem

# Measured on one machine by `evoprune calibrate --write`: for each device and engine, seconds for each of ``FEATURES``.
COSTS = Path(__file__).with_name("costs.json")
# The time of a training step is a sum of these quantities, each times an engine's cost of it.
FEATURES = (
    "steps",
    "individuals",
    "weights",  # of all individuals, dense
    "values",  # that modules compute, for all individuals and examples
    "linear",  # multiply-adds of dense linear layers, and of convolutions
    "convolutional",
    "sparse_linear",  # multiply-adds on survivors
    "sparse_convolutional",
)


def features(problem: Problem, sparsity: float, k: int) -> list[float]:
    """Returns the quantities that the time of a training step is a sum of, see :data:`FEATURES`.

    Survivors are taken to spread over the layers as under ``erk``, the default of random masks.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights that is removed.
        k: Number of individuals.
    """
    examples = k * min(problem.recipe.batch_size, len(problem.part("train")[0]))
    dense, survivors = [0.0, 0.0], [0.0, 0.0]
    kept = layer_survivors(problem.shapes, sparsity)
    for name, shape in problem.shapes.items():
        i = int(len(shape) > 2)
        dense[i] += math.prod(shape) * problem.uses[name]
        survivors[i] += kept[name] * problem.uses[name]
    return [
        1.0,
        float(k),
        float(k * problem.parameter_count),
        float(examples * values_of(problem)),
        *(examples * count for count in dense),
        *(examples * count for count in survivors),
    ]


def values_of(problem: Problem) -> int:
    """Returns how many numbers the modules of a problem's network compute for an example."""
    if "values" not in problem.programs:
        network, count = problem.network().eval(), 0

        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal count
            count += output.numel() if isinstance(output, torch.Tensor) else 0

        for module in network.modules():
            if next(module.children(), None) is None:
                module.register_forward_hook(add)
        with torch.no_grad():
            network(problem.part("train")[0][:1])
        problem.programs["values"] = count
    return int(problem.programs["values"])


def costs_of(kind: str) -> dict[str, list[float]]:
    """Returns each engine's costs on a kind of device, if calibrated those of this machine; empty for an unknown device."""
    for path in (user_costs(), COSTS):
        try:
            found = json.loads(path.read_text())[kind]
            if all(len(costs) == len(FEATURES) and all(cost >= 0 for cost in costs) for costs in found.values()):
                return {name: costs for name, costs in found.items() if name in ENGINES}
            raise ValueError("its costs are not those of this version")
        except FileNotFoundError:
            continue
        except KeyError:
            continue
        except (OSError, ValueError, TypeError, AttributeError) as error:
            warnings.warn(f"{path} cannot be used: {error}. Remove it, or run: evoprune calibrate", stacklevel=2)
    return {}


def user_costs() -> Path:
    """Returns where ``evoprune calibrate`` keeps the costs of this machine."""
    return Path(pooch.os_cache("evoprune")) / "costs.json"


def choose(problem: Problem, sparsity: float, k: int) -> str:
    """Returns the name of the engine with the least expected time among those that can serve the problem.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights that is removed.
        k: Number of individuals that are trained together.
    """
    costs = costs_of(problem.device.partition(":")[0])
    if not costs:
        # never measured here: such devices are made for dense products
        order = ["stacked", "module"]
    else:
        values = features(problem, sparsity, k)
        order = sorted(costs, key=lambda name: _expected(costs[name], values))
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
    costs = costs_of(problem.device.partition(":")[0]).get(engine)
    return None if costs is None else _expected(costs, features(problem, sparsity, k))


def _expected(costs: list[float], values: list[float]) -> float:
    return sum(cost * value for cost, value in zip(costs, values, strict=True))


def resolve(name: str, problem: Problem, sparsity: float, k: int) -> str:
    """Returns the name of the engine; for ``auto``, the one that is chosen.

    An engine that this machine cannot have is replaced by ``module``, with a warning.

    Raises:
        InputError: An unknown name, or an engine that cannot serve the problem.
    """
    faults: Mapping[str, str] = {each: engine.fault() for each, engine in ENGINES.items() if name in (each, "auto")}
    for each, fault in faults.items():
        if fault:
            warnings.warn(f"the engine {each!r} cannot be had here, for {fault}; another one trains the masks.", stacklevel=2)
            name = "module" if each == name else name
    if name == "auto":
        return choose(problem, sparsity, k)
    require(name, problem)
    return name
