"""DEAP as its users know it: the stock algorithms and maps on our toolbox."""

import multiprocessing
import pickle
import random

import numpy as np
import pytest
from deap import algorithms, base, tools

import evoprune as ep
from evoprune.operators import CROSSOVERS, MUTATIONS

# what each operator needs beside rng
MUTATION_OPTIONS = {
    "swap": {"fraction": 0.1},
    "density": {"fraction": 0.1},
    "informed": {"fraction": 0.1, "missing": "random"},
    "sparsity": {"fraction": 0.1, "low": 0.7, "high": 0.9},
}


def make_toolbox(problem: ep.Problem, mutation: str = "informed", crossover: str = "uniform") -> base.Toolbox:
    toolbox = ep.make_toolbox(problem, sparsity=0.8, fitness="loss", fitness_epochs=1, evidence=0.1)
    rng = np.random.default_rng(1)
    toolbox.register("mutate", MUTATIONS[mutation], rng=rng, **MUTATION_OPTIONS[mutation])
    toolbox.register("mate", CROSSOVERS[crossover], rng=rng)
    return toolbox


@pytest.fixture
def toolbox(digits: ep.Problem) -> base.Toolbox:
    return make_toolbox(digits)


ALGORITHMS = {
    "eaSimple": lambda population, toolbox, **options: algorithms.eaSimple(population, toolbox, 0.5, 0.9, 2, **options),
    "eaMuPlusLambda": lambda population, toolbox, **options: algorithms.eaMuPlusLambda(
        population, toolbox, 4, 5, 0.4, 0.5, 2, **options
    ),
    "eaMuCommaLambda": lambda population, toolbox, **options: algorithms.eaMuCommaLambda(
        population, toolbox, 4, 5, 0.4, 0.5, 2, **options
    ),
}


# every operator under one algorithm, and every algorithm
OPERATORS = [*((name, "uniform") for name in sorted(MUTATIONS)), *(("informed", name) for name in sorted(CROSSOVERS))]
COMBINED = [("eaMuPlusLambda", *pair) for pair in dict.fromkeys(OPERATORS)]
COMBINED += [(name, mutation, "uniform") for name in ("eaSimple", "eaMuCommaLambda") for mutation in ("informed", "sparsity")]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("algorithm", "mutation", "crossover"), COMBINED)
def test_stock_algorithms(digits: ep.Problem, algorithm: str, mutation: str, crossover: str) -> None:
    toolbox = make_toolbox(digits, mutation, crossover)
    assert type(toolbox) is base.Toolbox
    random.seed(3)
    best = tools.HallOfFame(2)
    population, logbook = ALGORITHMS[algorithm](
        toolbox.population(n=4), toolbox, stats=ep.make_statistics(), halloffame=best, verbose=False
    )
    assert [record["gen"] for record in logbook] == [0, 1, 2]
    assert all(record["min"] <= record["mean"] <= record["max"] for record in logbook)
    assert len(population) == 4
    if mutation == "sparsity":
        assert all(0.69 < mask.sparsity < 0.91 for mask in population)
    else:
        assert all(mask.survivors == round(0.2 * digits.prunable_count) for mask in population)
    assert best[0].fitness.values[0] >= max(mask.fitness.values[0] for mask in population)
    assert best[0].fitness >= best[1].fitness
    assert ep.Evaluator(digits, fitness="loss", epochs=1)(best[0]) == pytest.approx(best[0].fitness.values, rel=1e-3)


def test_several_objectives_under_a_pareto_front(digits: ep.Problem) -> None:
    toolbox = ep.make_toolbox(digits, fitness=("accuracy", "sparsity"), fitness_epochs=1)
    rng = np.random.default_rng(1)
    toolbox.register("mutate", MUTATIONS["sparsity"], rng=rng, **MUTATION_OPTIONS["sparsity"])
    toolbox.register("mate", CROSSOVERS["layer"], rng=rng)
    toolbox.register("select", tools.selNSGA2)
    random.seed(3)
    front = tools.ParetoFront()
    population, _ = algorithms.eaMuPlusLambda(
        toolbox.population(n=4), toolbox, 4, 6, 0.3, 0.7, 3, halloffame=front, verbose=False
    )
    assert all(len(mask.fitness.values) == 2 for mask in population)
    assert len(front) > 1
    assert not any(a.fitness.dominates(b.fitness) for a in front for b in front)
    copy = toolbox.clone(front[0])
    assert copy.fitness.values == front[0].fitness.values
    assert copy.fitness.weights == (1.0, 1.0)
    del copy.fitness.values
    assert not copy.fitness.valid


@pytest.mark.process
@pytest.mark.parametrize("foreign", ["built-in", "multiprocessing"])
def test_foreign_maps_give_the_same_fitness(digits: ep.Problem, foreign: str) -> None:
    toolbox = ep.make_toolbox(digits, fitness_epochs=1)
    masks = toolbox.population(n=3)
    expected = toolbox.map(toolbox.evaluate, masks)
    if foreign == "built-in":
        toolbox.register("map", map)
        assert list(toolbox.map(toolbox.evaluate, masks)) == expected
    else:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            toolbox.register("map", pool.map)
            assert toolbox.map(toolbox.evaluate, masks) == expected


def test_our_map_is_a_map(toolbox: base.Toolbox) -> None:
    assert toolbox.map(pow, [1, 2, 3], [2, 2, 2]) == [1, 4, 9]
    assert toolbox.map(str, []) == []


def test_starts_do_not_depend_on_their_number(digits: ep.Problem) -> None:
    few, many = (ep.make_toolbox(digits, fitness_epochs=1).population(n=n) for n in (2, 4))
    assert few == many[:2]
    assert many[2] != many[3]


def test_select_draws_from_the_runs_stream(digits: ep.Problem) -> None:
    chosen = []
    for seed in (1, 2):
        toolbox = ep.make_toolbox(digits, fitness_epochs=1)
        masks = toolbox.population(n=8)
        for i, mask in enumerate(masks):
            mask.fitness.values = (float(i),)
        random.seed(seed)
        state = random.getstate()
        chosen.append([[m.fitness.values[0] for m in toolbox.select(masks, 5)] for _ in range(2)])
        assert random.getstate() == state
    assert chosen[0] == chosen[1]
    assert chosen[0][0] != chosen[0][1]


def test_an_individual_pickles_with_its_fitness(toolbox: base.Toolbox) -> None:
    mask = toolbox.individual()
    mask.fitness.values = (1.5,)
    copy = pickle.loads(pickle.dumps(mask))
    assert copy == mask
    assert copy.fitness.values == (1.5,)
    assert toolbox.clone(mask).fitness == mask.fitness


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan")])
def test_bad_sparsity_is_refused_at_once(digits: ep.Problem, sparsity: float) -> None:
    with pytest.raises(ep.InputError, match="sparsity is"):
        ep.make_toolbox(digits, sparsity=sparsity)


def test_statistics_pass_over_failures() -> None:
    statistics = ep.make_statistics()
    masks = [ep.Mask(np.ones(2, bool), {"w": (2,)}) for _ in range(3)]
    for mask, value in zip(masks, (-np.inf, 1.0, 3.0), strict=True):
        mask.fitness.values = (value,)
    assert statistics.compile(masks) == {"min": 1.0, "mean": 2.0, "max": 3.0, "std": 1.0}
    assert np.isnan(statistics.compile(masks[:1])["mean"])
