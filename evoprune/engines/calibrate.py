"""Calibration: the costs of the engines on this machine, measured on small networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from evoprune.engines.auto import features
from evoprune.engines.population import Stint
from evoprune.engines.registry import ENGINES
from evoprune.engines.steps import train_steps
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

# Networks by name, their widths, and the shape of an example: with many weights a value, and with few; small, where the fixed
# costs show; and convolutions over many positions, with and without batch normalisation.
NETWORKS: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    ("mlp", (300, 100), (784,)),
    ("mlp", (32, 16), (64,)),
    ("mlp", (1000, 1000), (256,)),
    ("conv-4", (16,), (3, 32, 32)),
    ("conv-2", (8,), (1, 28, 28)),
    ("resnet-8", (16,), (3, 32, 32)),
    ("resnet-20", (8,), (3, 16, 16)),
)
SPARSITIES = (0.0, 0.5, 0.9, 0.98)
SIZES = (1, 4)
BATCH = 64


@dataclass(frozen=True)
class Measured:
    """A measurement: the engine, the quantities of :func:`evoprune.engines.auto.features`, and the seconds of a step."""

    engine: str
    network: str
    sparsity: float
    k: int
    values: list[float]
    seconds: float


def points() -> list[tuple[Problem, str, float, int]]:
    """Returns what is measured: problem, the network's name, sparsity, and number of individuals."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for name, widths, shape in NETWORKS:
        x = torch.randn(2 * BATCH, *shape, generator=generator)
        data = Data(
            (x, torch.arange(len(x)) % 10), (x[:BATCH], torch.arange(BATCH) % 10), (x[:BATCH], torch.arange(BATCH) % 10)
        )
        problem = Problem(name, data, Recipe(epochs=1, batch_size=BATCH), widths=widths)
        found += [(problem, name, sparsity, k) for sparsity in SPARSITIES for k in SIZES]
    return found


def measure(problem: Problem, network: str, sparsity: float, k: int, repeats: int = 3) -> Iterator[Measured]:
    """Measures every engine that can serve a problem, one after another in turns; yields the medians."""
    rng = np.random.default_rng(0)
    masks = [random_mask(problem.shapes, sparsity, rng) for _ in range(k)]
    trials = {name: _trial(problem, name, masks) for name, engine in ENGINES.items() if not engine.fault()}
    times: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(repeats + 1):  # the first is not counted
        for name, trial in trials.items():
            start = time.perf_counter()
            steps = trial()
            times[name].append((time.perf_counter() - start) / steps)
    for name, seconds in times.items():
        yield Measured(name, network, sparsity, k, features(problem, sparsity, k), statistics.median(seconds[1:]))


def _trial(problem: Problem, name: str, masks: Sequence[Mask]) -> Callable[[], int]:
    """Returns a function that trains a few steps with an engine, and returns how many."""
    engine = ENGINES[name]
    groups = [list(masks)] if engine.capacity is None else [[mask] for mask in masks]
    populations = [engine.build(problem, group) for group in groups]
    optimizers = [problem.recipe.make_optimizer(list(population.parameters())) for population in populations]
    sums = [[torch.zeros_like(weight) for weight in population.weights] for population in populations]
    rows = torch.arange(BATCH)
    steps = 2

    def train() -> int:
        for population, optimizer, gradients in zip(populations, optimizers, sums, strict=True):
            population.train()
            train_steps(population, problem, Stint([rows] * steps, [1e-3] * steps), optimizer, gradients)
        return steps

    return train


def fit(measured: Sequence[Measured]) -> dict[str, list[float]]:
    """Returns each engine's costs: non-negative, with the least relative error of the measured seconds."""
    costs = {}
    for name in dict.fromkeys(each.engine for each in measured):
        mine = [each for each in measured if each.engine == name]
        rows = np.array([each.values for each in mine]) / np.array([each.seconds for each in mine])[:, None]
        scale = np.maximum(rows.max(0), 1e-300)  # so that quantities of any size weigh alike
        costs[name] = (nnls(rows / scale, np.ones(len(mine)))[0] / scale).tolist()
    return costs


def slowdowns(found: Sequence[Measured], costs: dict[str, list[float]]) -> list[float]:
    """Returns for each point the time of the engine that the costs choose over that of the fastest."""
    points: dict[tuple[str, float, int, float], dict[str, Measured]] = {}
    for each in found:
        points.setdefault((each.network, each.sparsity, each.k, each.values[3]), {})[each.engine] = each
    ratios = []
    for engines in points.values():
        expected = {n: sum(c * v for c, v in zip(costs[n], m.values, strict=True)) for n, m in engines.items()}
        chosen = min(expected, key=lambda name: expected[name])
        ratios.append(engines[chosen].seconds / min(m.seconds for m in engines.values()))
    return ratios
