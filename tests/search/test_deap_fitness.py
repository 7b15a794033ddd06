"""Fitness classes of one's own, and individuals of DEAP's creator."""

import pickle
import random

import numpy as np
import pytest
from deap import algorithms, base, creator, tools
from support.toolboxes import SEEDED, make_toolbox

import evoprune as ep


class FitnessMin(ep.Fitness):
    weights = (-1.0,)


class MinMax(ep.Fitness):
    weights = (-1.0, 2.0)


class Undeclared(ep.Fitness):
    pass


creator.create("CreatedMin", ep.Fitness, weights=(-1.0,))


# Fitness classes

CLASSES = {
    "min": (FitnessMin, (1.0,), (2.0,)),
    "created": (creator.CreatedMin, (1.0,), (2.0,)),
    "min and max": (MinMax, (1.0, 5.0), (2.0, 5.0)),
    "max": (MinMax, (1.0, 6.0), (1.0, 5.0)),
    "undeclared": (Undeclared, (2.0,), (1.0,)),
    "own": (ep.Fitness, (2.0, 0.0, 1.0), (1.0, 1.0, 1.0)),
}


COPIES = {
    "itself": lambda thing: thing,
    "clone": base.Toolbox().clone,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize("name", CLASSES)
def test_a_fitness_class_keeps_its_weights(name: str, copies: str, toolbox: base.Toolbox) -> None:
    kind, better, worse = CLASSES[name]
    masks = toolbox.population(n=2)
    for mask, values in zip(masks, (worse, better), strict=True):
        mask.fitness = kind()
        mask.fitness.values = values
    bad, good = map(COPIES[copies], masks)
    assert (bad.fitness.values, good.fitness.values) == (worse, better)
    assert (type(good.fitness).__name__, good.fitness.weights) == (kind.__name__, bad.fitness.weights)
    assert good.fitness > bad.fitness
    assert good.fitness.dominates(bad.fitness) == (name != "own")
    assert tools.selBest([bad, good], 1) == [good]
    hall, front = tools.HallOfFame(2), tools.ParetoFront()
    for archive in (hall, front):
        archive.update([bad, good])
        assert archive[0] == good
    assert tools.selNSGA2([bad, good], 1)[0].fitness.values == (better if name != "own" else worse)
    assert kind.weights == {"min": (-1.0,), "created": (-1.0,)}.get(name, MinMax.weights if kind is MinMax else (1.0,))


@pytest.mark.parametrize(("kind", "values"), [(FitnessMin, (1.0, 2.0)), (MinMax, (1.0,)), (MinMax, (1.0, 2.0, 3.0))])
def test_another_number_of_values_than_declared_weights_is_refused(kind: type[ep.Fitness], values: tuple[float, ...]) -> None:
    fitness = kind()
    with pytest.raises(ep.InputError, match=rf"{len(values)} fitness values for the weights .* of {kind.__name__}"):
        fitness.values = values
    assert not fitness.valid


def test_weights_set_on_a_fitness_hold() -> None:
    fitness = ep.Fitness()
    fitness.weights = (-1.0,)
    fitness.values = (2.0,)
    assert (fitness.values, fitness.wvalues) == ((2.0,), (-2.0,))
    assert base.Toolbox().clone(fitness) < fitness.__class__((-1.0,))


@pytest.mark.parametrize("own_map", [True, False])
@pytest.mark.parametrize("kind", [ep.Fitness, FitnessMin])
def test_a_failure_is_the_worst_under_any_weights(kind: type[ep.Fitness], own_map: bool) -> None:
    problem = ep.Problem(model="mlp", recipe=ep.Recipe(epochs=1, lr=1e9))
    toolbox = ep.make_toolbox(problem, fitness="loss", fitness_epochs=1)
    failed, other = toolbox.population(n=2)
    failed.fitness, other.fitness = kind(), kind()
    (failed.fitness.values,) = toolbox.map(toolbox.evaluate, [failed]) if own_map else map(toolbox.evaluate, [failed])
    for value in (-1e300, 1e300):
        other.fitness.values = (value,)
        assert failed.fitness < other.fitness


def minimised(problem: ep.Problem) -> base.Toolbox:
    toolbox = make_toolbox(problem)
    evaluator = toolbox.evaluate
    toolbox.register("evaluate", lambda mask: (-evaluator(mask)[0],))
    individual = toolbox.individual

    def make() -> ep.Mask:
        mask = individual()
        mask.fitness = FitnessMin()
        return mask

    toolbox.register("population", tools.initRepeat, list, make)
    toolbox.register("select", tools.selBest)
    toolbox.register("mutate", ep.operators.swap, fraction=0.1, rng=SEEDED(0))
    toolbox.register("mate", ep.operators.uniform, rng=SEEDED(1))
    return toolbox


def test_an_algorithm_minimises(problem: ep.Problem) -> None:
    random.seed(0)
    best, toolbox = tools.HallOfFame(1), minimised(problem)
    population, logbook = algorithms.eaMuPlusLambda(
        toolbox.population(n=4), toolbox, 4, 6, 0.3, 0.6, 2, stats=ep.make_statistics(), halloffame=best, verbose=False
    )
    assert logbook.select("min") == sorted(logbook.select("min"), reverse=True)
    assert best[0].fitness.values[0] == min(logbook.select("min")) > 0
    assert all(type(mask.fitness) is FitnessMin for mask in population)


def test_an_individual_of_deaps_creator_keeps_its_fitness(digits: ep.Problem) -> None:
    class Least(ep.Fitness):
        weights = (-1.0,)

    class Individual(ep.Mask):
        def __init__(self, *arguments: object, **options: object) -> None:  # as deap.creator makes it
            self.fitness = Least()
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

    one, other = (Individual(np.ones(digits.prunable_count, bool), digits.shapes) for _ in range(2))
    one.fitness.values, other.fitness.values = (1.0,), (2.0,)
    assert one.fitness > other.fitness


@pytest.mark.parametrize("individual", [[True, False], np.ones(3, bool), ep.Mask(np.ones(6, bool), {"a": (2, 3)})])
def test_an_individual_that_is_no_mask_of_the_network_is_refused(digits: ep.Problem, individual: object) -> None:
    toolbox = ep.make_toolbox(digits, fitness="loss", fitness_epochs=1)
    with pytest.raises(ep.InputError, match=r"expected ep\.Mask|does not fit the network"):
        toolbox.evaluate(individual)
