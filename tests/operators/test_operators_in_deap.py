"""Operators in DEAP's algorithms."""

import copy
import random

import numpy as np
import pytest
from deap import algorithms, base, tools

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.evidence import take_evidence
from evoprune.operators import (
    CROSSOVERS,
    MUTATIONS,
)
from evoprune.training.loop import train

# DEAP's algorithms


class WithEvidence:
    """Evaluates a mask as the evaluator does, one at a time, and leaves the evidence beside it."""

    def __init__(self, problem):
        self.problem, self.taken = problem, 0

    def __call__(self, mask):
        population = ENGINES["module"].build(self.problem, [copy.deepcopy(mask)])
        train(population, self.problem, 1, seed=0)
        mask.evidence = take_evidence(self.problem, population, 0, seed=0)
        self.taken += 1
        return (float(population.survivor_values(0, population.weights).abs().sum()),)


ALGORITHMS = {
    "simple": (algorithms.eaSimple, (0.5, 0.7, 2)),
    "plus": (algorithms.eaMuPlusLambda, (4, 4, 0.4, 0.5, 2)),
    "comma": (algorithms.eaMuCommaLambda, (4, 4, 0.4, 0.5, 2)),
}

PAIRS = [("swap", "uniform"), ("density", "layer"), ("informed", "neuron"), ("sparsity", "uniform")]


@pytest.fixture(scope="module")
def tiny() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=ep.Recipe(epochs=1), seed=0)


def evolve(problem: ep.Problem, algorithm: str, mutation: str, crossover: str):
    toolbox: base.Toolbox = ep.make_toolbox(problem, sparsity=0.8, fitness_epochs=1)
    rng = np.random.default_rng(7)
    options = {"sparsity": {"low": 0.75, "high": 0.85}, "informed": {"missing": "random"}}.get(mutation, {})
    toolbox.register("mutate", MUTATIONS[mutation], fraction=0.1, rng=rng, **options)
    toolbox.register("mate", CROSSOVERS[crossover], rng=rng)
    if mutation == "informed":
        toolbox.register("map", map)
        toolbox.register("evaluate", WithEvidence(problem))
    random.seed(3)
    best = tools.HallOfFame(2)
    population = toolbox.population(n=4)
    first = copy.deepcopy(population)
    run, settings = ALGORITHMS[algorithm]
    records = {"stats": ep.make_statistics(), "halloffame": best, "verbose": False}
    population, logbook = run(population, toolbox, *settings, **records)
    return first, population, logbook, best, toolbox


def test_the_pairs_cover_the_registries():
    assert {mutation for mutation, _ in PAIRS} == set(MUTATIONS)
    assert {crossover for _, crossover in PAIRS} == set(CROSSOVERS)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize(("mutation", "crossover"), PAIRS)
def test_deaps_algorithms_run_with_them(tiny, algorithm, mutation, crossover):
    first, population, logbook, best, toolbox = evolve(tiny, algorithm, mutation, crossover)
    assert [record["gen"] for record in logbook] == [0, 1, 2]
    assert all(record["min"] <= record["mean"] <= record["max"] for record in logbook)
    assert len(population) == 4
    n = tiny.prunable_count
    low, high = (round(0.15 * n), round(0.25 * n)) if mutation == "sparsity" else (round(0.2 * n),) * 2
    assert all(low <= mask.survivors <= high for mask in [*population, *best])
    assert {mask.hash for mask in [*population, *best]} - {mask.hash for mask in first}  # something new was made
    assert best[0].fitness.values[0] == max(record["max"] for record in logbook)
    if mutation == "informed":
        assert toolbox.evaluate.func.taken == sum(record["nevals"] for record in logbook)
        assert all(mask.evidence.mask == mask.hash for mask in [*population, *best])
    else:
        # the fitness beside a mask is its own, not a parent's
        evaluator = ep.Evaluator(tiny, epochs=1, engine=toolbox.evaluate.func.brief.engine)
        assert evaluator(population[0])[0] == pytest.approx(population[0].fitness.values[0], rel=1e-5)


def test_a_run_is_repeated_by_its_seeds(tiny):
    runs = [evolve(tiny, "simple", "informed", "uniform") for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    assert runs[0][2] == runs[1][2]
