"""DEAP as its users know it: the stock algorithms and maps on our toolbox."""

import multiprocessing
import pickle
import random

import numpy as np
import pytest
from deap import algorithms, base, tools

import evoprune as ep


def swap(mask: ep.Mask) -> tuple[ep.Mask]:
    """Swaps one survivor for one removed weight; draws from the global ``random``, as DEAP's operators do."""
    survivors, removed = np.flatnonzero(mask.bits), np.flatnonzero(~mask.bits)
    mask.bits[random.choice(survivors)] = False
    mask.bits[random.choice(removed)] = True
    return (mask,)


def exchange(a: ep.Mask, b: ep.Mask) -> tuple[ep.Mask, ep.Mask]:
    a[:], b[:] = b[:], a[:]
    return a, b


@pytest.fixture
def toolbox(digits: ep.Problem) -> base.Toolbox:
    toolbox = ep.make_toolbox(digits, sparsity=0.8, fitness_epochs=1)
    toolbox.register("mutate", swap)
    toolbox.register("mate", exchange)
    return toolbox


def ea_simple(toolbox: base.Toolbox) -> tuple[list[ep.Mask], tools.Logbook, tools.HallOfFame]:
    random.seed(3)
    best = tools.HallOfFame(2)
    population = toolbox.population(n=4)
    population, logbook = algorithms.eaSimple(
        population, toolbox, 0.5, 0.9, 2, stats=ep.make_statistics(), halloffame=best, verbose=False
    )
    return population, logbook, best


def test_ea_simple(toolbox: base.Toolbox, digits: ep.Problem) -> None:
    assert type(toolbox) is base.Toolbox
    population, logbook, best = ea_simple(toolbox)
    assert [record["gen"] for record in logbook] == [0, 1, 2]
    assert all(record["min"] <= record["mean"] <= record["max"] for record in logbook)
    assert all(mask.survivors == round(0.2 * digits.prunable_count) for mask in population)
    assert best[0].fitness.values[0] >= max(mask.fitness.values[0] for mask in population)
    assert ep.Evaluator(digits, epochs=1)(best[0]) == best[0].fitness.values


def test_other_algorithms(toolbox: base.Toolbox) -> None:
    random.seed(3)
    population = toolbox.population(n=3)
    for algorithm in (algorithms.eaMuPlusLambda, algorithms.eaMuCommaLambda):
        population, _ = algorithm(population, toolbox, 3, 4, 0.4, 0.5, 1, verbose=False)
        assert len(population) == 3


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
