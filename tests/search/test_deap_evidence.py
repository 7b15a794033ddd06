"""Evidence comes by any map, and a search without it is said."""

import functools
import multiprocessing
import pickle
import random
import warnings

import numpy as np
import pytest
from deap import algorithms, base, tools
from support.toolboxes import GLOBAL, SEEDED, evaluate_global, make_toolbox

import evoprune as ep
from evoprune.operators import Evidence

# Evidence, whatever the map


def _decorated(toolbox: base.Toolbox, pool: object) -> None:
    toolbox.decorate("evaluate", tools.DeltaPenalty(lambda mask: True, -100.0))


def _penalised(toolbox: base.Toolbox, pool: object) -> None:
    toolbox.decorate("evaluate", tools.ClosestValidPenalty(lambda mask: True, lambda mask: mask, 1e-6))


def _pool_map(toolbox: base.Toolbox, pool: object) -> None:
    toolbox.register("map", pool.map)


def _decorated_map(toolbox: base.Toolbox, pool: object) -> None:
    _decorated(toolbox, pool)
    toolbox.register("map", map)


WAYS = {
    "the toolbox's own map": lambda toolbox, pool: None,
    "decorated": _decorated,
    "penalised": _penalised,
    "built-in map": lambda toolbox, pool: toolbox.register("map", map),
    "decorated, built-in map": _decorated_map,
    "pool.map": _pool_map,
    "pool.imap": lambda toolbox, pool: toolbox.register("map", pool.imap),
}


def mutations_of(toolbox: base.Toolbox, crossover: float = 0.0) -> tuple[dict[str, int], list[ep.Mask]]:
    """Runs an algorithm; returns how many mutants had evidence and how many had none, and the population."""
    counts, rng = {"informed": 0, "random": 0}, SEEDED(0)

    def mutate(mask: ep.Mask, **options: object) -> tuple[ep.Mask]:
        counts["random" if mask.evidence is None else "informed"] += 1
        return ep.operators.informed(mask, **options)

    toolbox.register("mutate", mutate, fraction=0.1, missing="random", rng=rng)
    toolbox.register("mate", ep.operators.by_neuron, rng=rng)
    random.seed(0)
    population, _ = algorithms.eaSimple(toolbox.population(n=4), toolbox, crossover, 0.9, 2, verbose=False)
    return counts, population


@pytest.mark.process
@pytest.mark.parametrize("way", WAYS)
def test_evidence_comes_by_any_map(way: str, problem: ep.Problem) -> None:
    toolbox = make_toolbox(problem, evidence=0.1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        WAYS[way](toolbox, pool)
        counts, population = mutations_of(toolbox)
    assert counts["random"] == 0
    assert counts["informed"] > 0
    assert population == mutations_of(make_toolbox(problem, evidence=0.1))[1]


def test_children_of_crossovers_are_mutated_at_random_without_a_word(problem: ep.Problem) -> None:
    counts, _ = mutations_of(make_toolbox(problem, evidence=0.1), 1.0)  # a warning would be an error
    assert counts["random"] > 0


def rounded(evaluate):
    @functools.wraps(evaluate)
    def call(mask: ep.Mask) -> tuple[float, ...]:
        return tuple(round(value, 3) for value in evaluate(mask))

    return call


@pytest.mark.parametrize("options", [{}, {"evidence": 0.1, "dissipation": ep.Dissipation(1, sparsity=0.95)}], ids=str)
def test_a_search_without_evidence_is_said(problem: ep.Problem, options: dict[str, object]) -> None:
    with pytest.warns(UserWarning, match="was evaluated has no evidence.*evidence= above 0"):
        mutations_of(make_toolbox(problem, **options))


@pytest.mark.process
def test_a_decorator_in_a_process_that_loses_evidence_is_said(problem: ep.Problem) -> None:
    GLOBAL["evaluator"] = rounded(make_toolbox(problem, evidence=0.1).evaluate)
    toolbox = make_toolbox(problem)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        toolbox.register("evaluate", evaluate_global)
        toolbox.register("map", pool.map)
        with pytest.warns(UserWarning, match="was evaluated has no evidence"):
            mutations_of(toolbox)


def test_the_missing_evidence_is_said_once(problem: ep.Problem) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        mutations_of(make_toolbox(problem))
    assert len(said) == 1


@pytest.mark.parametrize("value", [None, -np.inf])
def test_who_can_have_no_evidence_is_not_warned_of(toolbox: base.Toolbox, value: float | None) -> None:
    mask = toolbox.individual()
    if value is not None:
        mask.fitness.values = (value,)
    ep.operators.informed(mask, rng=SEEDED(0), fraction=0.1, missing="random")


@pytest.mark.parametrize("clone", [lambda mask: mask, lambda mask: pickle.loads(pickle.dumps(mask)), base.Toolbox().clone])
def test_evidence_that_came_with_the_values_is_the_masks(toolbox: base.Toolbox, clone) -> None:
    mask = toolbox.individual()
    values = pickle.loads(pickle.dumps(ep.Evaluator(toolbox.evaluate.func.problem, epochs=1, evidence=0.1)(mask)))
    mask = pickle.loads(pickle.dumps(mask))
    mask.evidence = None
    mask.fitness.values = values
    mask = clone(mask)
    assert mask.evidence.mask == mask.hash
    del mask.fitness.values
    ep.operators.informed(mask, rng=SEEDED(0), fraction=0.1)
    assert mask.evidence is None
    mask.evidence = Evidence(mask.hash, np.arange(1), np.arange(1))
    assert mask.evidence.still.tolist() == [0]
