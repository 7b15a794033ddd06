import math
import random
from pathlib import Path

import numpy as np
import pytest
from deap import algorithms, base, tools

import evoprune as ep
from evoprune import seeds
from evoprune.operators import CROSSOVERS, MUTATIONS, Evidence
from evoprune.search.evolution.check import require
from evoprune.search.evolution.options import Evolution
from evoprune.search.evolution.state import State
from evoprune.search.evolution.survival import make_hall_of_fame, reason_to_stop, replace
from evoprune.search.evolution.variation import register_operators, vary

SHAPES = {"a": (20, 10), "b": (10, 5)}
SPARSITY = 0.8


def masks(n: int, seed: int = 0) -> list[ep.Mask]:
    rng = np.random.default_rng(seed)
    made = [ep.random_mask(SHAPES, SPARSITY, rng) for _ in range(n)]
    for i, mask in enumerate(made):
        mask.fitness.values = (float(i),)
    return made


def state(population: list[ep.Mask], gen: int = 1) -> State:
    hall_of_fame = make_hall_of_fame(Evolution(), 1)
    hall_of_fame.update(population)
    return State(population, hall_of_fame, seeds.generator(1, "variation"), random.Random(1), gen)


def make_toolbox(evolution: Evolution) -> base.Toolbox:
    toolbox = base.Toolbox()
    register_operators(toolbox, evolution, SPARSITY, 1, np.random.default_rng(3))
    return toolbox


def test_the_toolbox_serves_deaps_own_algorithms() -> None:
    toolbox = make_toolbox(Evolution(k=4))
    toolbox.register("evaluate", lambda mask: (float(mask.bits[:50].sum()),))
    random.seed(1)
    population, logbook = algorithms.eaMuPlusLambda(masks(4), toolbox, 4, 6, 0.3, 0.7, 2, verbose=False)
    assert {mask.survivors for mask in population} == {50}
    assert len(logbook) == 3


@pytest.mark.parametrize("algorithm", ["mu+lambda", "generational"])
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
@pytest.mark.parametrize("crossover", sorted(CROSSOVERS))
def test_children_keep_their_survivors_and_parents_stay(algorithm: str, mutation: str, crossover: str) -> None:
    evolution = Evolution(k=6, offspring=12, algorithm=algorithm, mutation=(mutation,), crossover=crossover)
    parents = masks(6)
    before = [(mask.hash, mask.fitness.values) for mask in parents]
    children = vary(state(parents), make_toolbox(evolution), evolution)
    assert len(children) == 12
    assert [(mask.hash, mask.fitness.values) for mask in parents] == before
    if mutation == "sparsity":
        assert all(25 <= child.survivors <= 75 for child in children)  # half of 50 less or more, unless bounds are given
    else:
        assert {child.survivors for child in children} == {50}
    assert {child.hash for child in children} - {mask_hash for mask_hash, _ in before}
    assert not any(child.bits is parent.bits for child in children for parent in parents)


def test_variation_draws_from_the_runs_streams_alone() -> None:
    evolution = Evolution(k=4, mutation=("informed", "density", "swap"))
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        before = random.getstate()
        drawn.append([child.hash for child in vary(state(masks(4)), make_toolbox(evolution), evolution)])
        assert random.getstate() == before
    assert drawn[0] == drawn[1]


def test_a_single_mask_has_mutants_only() -> None:
    evolution = Evolution(k=4, crossover_probability=1.0)
    children = vary(state(masks(1)), make_toolbox(evolution), evolution)
    assert len(children) == evolution.children == 8
    assert all(not child.fitness.valid for child in children)


def test_a_name_given_twice_is_drawn_twice_as_often() -> None:
    evolution = Evolution(k=1, offspring=600, mutation=("swap", "swap", "density"), crossover_probability=0, scope="layer")
    parent = masks(1)
    counts = [mask.layers["a"].sum() for mask in vary(state(parent), make_toolbox(evolution), evolution)]
    kept = np.mean(np.array(counts) == parent[0].layers["a"].sum())  # a swap within layers keeps each layer's number
    assert 0.6 < kept < 0.74


@pytest.mark.parametrize("selection", ["best", "tournament", "nsga2"])
def test_mu_plus_lambda_takes_distinct_ones_of_parents_and_children(selection: str) -> None:
    evolution = Evolution(k=3, selection=selection)
    parents, children = masks(3), masks(4, seed=9)
    children[0] = parents[2]
    children[1].fitness.values = (-math.inf,)
    children[3].fitness.values = (7.0,)
    random.seed(0)
    survivors = replace(state(parents), children, make_toolbox(evolution), evolution)
    assert len(survivors) == 3
    assert all(any(mask is other for other in (*parents, *children)) for mask in survivors)
    assert not any(math.isinf(mask.fitness.values[0]) for mask in survivors)
    if selection == "best":
        assert [mask.fitness.values[0] for mask in survivors] == [7.0, 2.0, 2.0]
        assert len({mask.hash for mask in survivors}) == 3


def test_failed_masks_survive_where_there_is_nothing_else() -> None:
    evolution = Evolution(k=2)
    children = masks(2)
    for child in children:
        child.fitness.values = (-math.inf,)
    assert len(replace(state([]), children, make_toolbox(evolution), evolution)) == 2


def test_failed_children_do_not_survive_beside_an_elite() -> None:
    evolution = Evolution(k=3, algorithm="generational", offspring=3)
    children = masks(3, seed=9)
    for child in children:
        child.fitness.values = (-math.inf,)
    assert [mask.fitness.values for mask in replace(state(masks(3)), children, make_toolbox(evolution), evolution)] == [(2.0,)]


def test_fitter_parents_have_more_children() -> None:
    evolution = Evolution(k=8, offspring=400, algorithm="generational", crossover_probability=0, mutation_probability=0)
    children = vary(state(masks(8)), make_toolbox(evolution), evolution)
    counts = np.bincount([int(child.fitness.values[0]) for child in children], minlength=8)
    assert counts.sum() == 400
    # the fittest of three of eight: it is the i-th with probability ((i + 1)^3 - i^3) / 8^3
    assert counts[7] == pytest.approx(400 * 169 / 512, rel=0.25)
    assert counts[:4].sum() == pytest.approx(400 * 64 / 512, rel=0.4)


@pytest.mark.parametrize("elites", [0, 1, 2])
def test_a_generation_replaces_all_but_the_elites(elites: int) -> None:
    evolution = Evolution(k=4, algorithm="generational", elites=elites)
    parents, children = masks(4), masks(4, seed=9)
    for child in children:
        child.fitness.values = (-1.0,)
    survivors = replace(state(parents), children, make_toolbox(evolution), evolution)
    assert len(survivors) == 4
    kept = [mask for mask in survivors if any(mask is parent for parent in parents)]
    assert [mask.fitness.values[0] for mask in kept] == [3.0, 2.0][:elites]


def test_the_exchanged_fraction_falls_as_a_cosine() -> None:
    evolution = Evolution(fraction=0.3, last_fraction=0.1, generations=5)
    assert [evolution.fraction_at(gen) for gen in (1, 3, 5)] == pytest.approx([0.3, 0.2, 0.1])
    assert evolution.fraction_at(2) == pytest.approx(0.1 + 0.2 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert Evolution(generations=1).fraction_at(1) == Evolution().fraction


def test_evidence_names_what_the_mutation_may_exchange() -> None:
    assert Evolution(fraction=0.2, among=1.5, mutation=("informed",)).evidence(0.9) == pytest.approx(0.3)
    assert Evolution(fraction=0.9, among=2).evidence(0.9) == 1
    assert Evolution(mutation=("swap", "density")).evidence(0.9) == 0
    rising = Evolution(mutation=("swap",), first_sparsity=0.6, sparsify=2, among=1.2)
    assert rising.evidence(0.9) == pytest.approx(1.2 * 0.5)  # a density of 0.4 is halved twice


def test_survivors_fall_by_the_same_factor() -> None:
    rising = Evolution(first_sparsity=0.2, sparsify=3)
    assert [rising.survivors_at(gen, 0.9, 1000) for gen in range(6)] == [None, 400, 200, 100, None, None]
    assert Evolution().survivors_at(1, 0.9, 1000) is None
    assert (rising.begin(0.9), Evolution().begin(0.9)) == (0.2, 0.9)


def test_children_of_a_rising_sparsity_lose_what_evidence_says() -> None:
    parents = masks(2)
    for parent in parents:
        still = np.flatnonzero(parent.bits)[:30]
        parent.evidence = Evidence(parent.hash, still, np.array([], np.int64))
    evolution = Evolution(k=2, offspring=4, first_sparsity=0.8, sparsify=1, among=1.0)
    children = vary(state(parents), make_toolbox(evolution), evolution, survivors=25)
    assert {child.survivors for child in children} == {25}
    expected = [parent.bits & ~np.isin(np.arange(250), np.flatnonzero(parent.bits)[:25]) for parent in parents]
    assert all(any(np.array_equal(child.bits, bits) for bits in expected) for child in children)
    assert all(child.evidence is None and not child.fitness.valid for child in children)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"generations": 4}, "4 generations"),
        ({"evaluations": 65}, "50 evaluations"),
        ({"evaluations": 66}, ""),
        ({"seconds": 7.0}, "8 seconds"),
        ({"seconds": 9.0}, ""),
        ({"patience": 2}, "no fitter mask for 2 generations"),
        ({"patience": 3}, ""),
        ({}, ""),
    ],
)
def test_limits(options: dict[str, float], reason: str) -> None:
    now = state(masks(8), gen=5)  # generations 0 to 4 are done
    for gen in range(5):
        now.logbook.record(gen=gen, nevals=10)
    now.improved, now.seconds = 2, 8.0
    assert reason_to_stop(now, Evolution(k=8, **options)) == reason


def test_no_limit_ends_before_the_first_generation() -> None:
    assert reason_to_stop(state([], gen=0), Evolution(generations=0, evaluations=16, patience=1)) == ""


def test_no_limit_ends_it_while_sparsity_rises() -> None:
    now = state(masks(8), gen=5)
    now.seconds = 8.0
    rising = Evolution(first_sparsity=0.5, sparsify=5, seconds=1.0)
    assert reason_to_stop(now, rising) == ""
    now.gen = 6
    assert reason_to_stop(now, rising) == "8 seconds"


def test_a_single_name_or_path_will_do() -> None:
    evolution = Evolution(mutation="swap", start=Path("runs", "mine"))
    assert (evolution.mutation, evolution.start) == (("swap",), (str(Path("runs", "mine")),))
    assert Evolution(start="snip").first == 1
    assert Evolution(start=("snip", "random"), starts=5).first == 5
    assert Evolution(start=["snip", "snip"]).most_evaluations == 1 + 20 * 16


def test_halls_of_fame() -> None:
    assert type(make_hall_of_fame(Evolution(hall_of_fame=3), 1)) is tools.HallOfFame
    assert type(make_hall_of_fame(Evolution(), 2)) is tools.ParetoFront


def test_sparsity_varies_within_bounds_only_where_asked() -> None:
    assert Evolution().bounds(0.9) == (0.9, 0.9)
    assert Evolution(mutation=("sparsity",)).bounds(0.9) == pytest.approx((0.85, 0.95))
    assert Evolution(mutation=("sparsity",), min_sparsity=0.5, max_sparsity=0.99).bounds(0.9) == (0.5, 0.99)
    assert Evolution(mutation=("sparsity",)).bounds(0.1)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; expected an integer of at least 1"),
        ({"k": True}, "k is True"),
        ({"generations": -1}, "generations is -1"),
        ({"offspring": 0}, "offspring is 0"),
        ({"starts": 1.5}, r"starts is 1\.5"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"evaluations": 15}, "evaluations are 15, but there are 16 in the first generation"),
        ({"evaluations": 95, "first_sparsity": 0.5}, "evaluations are 95, but there are 96 until sparsity has risen"),
        ({"starts": 4, "start": ("snip",)}, "starts are 4.*expected random among them"),
        ({"algorithm": "generational", "selection": "best"}, "expected tournament, for parents"),
        ({"algorithm": "generational", "offspring": 6}, "offspring are 6 and elites 1; expected together at least k, 8"),
        ({"min_sparsity": 0.5}, "sparsity has bounds"),
        ({"first_sparsity": 0.95}, "first_sparsity is 0.95; expected at most the sparsity, 0.9"),
        ({"first_sparsity": 0.5, "generations": 4}, "generations are 4; expected at least sparsify, 5"),
        ({"first_sparsity": 0.5, "mutation": ("sparsity",)}, "expected one of them"),
        ({"sparsify": 0}, "sparsify is 0"),
        ({"seconds": "5"}, "seconds are '5'"),
        ({"patience": 0}, "patience is 0"),
        ({"elites": 9}, "elites are 9, but k is 8"),
        ({"seconds": 0}, "seconds are 0"),
        ({"algorithm": "mu,lambda"}, "unknown algorithm"),
        ({"selection": "roulette"}, "unknown selection"),
        ({"crossover": "two-point"}, "unknown crossover"),
        ({"mutation": ("swop",)}, "Did you mean 'swap'"),
        ({"mutation": ()}, "no mutation or no start"),
        ({"start": ()}, "no mutation or no start"),
        ({"grow": "least"}, "unknown grow"),
        ({"scope": "neuron"}, "unknown scope"),
        ({"crossover_probability": 1.5}, "crossover_probability is 1.5"),
        ({"mutation_probability": -1}, "mutation_probability is -1"),
        ({"fraction": 0}, "fraction is 0"),
        ({"last_fraction": 2}, "last_fraction is 2"),
        ({"among": 0.5}, r"among is 0\.5"),
        ({"mutation": ("sparsity",), "min_sparsity": 0.95}, "to vary from 0.95"),
        ({"hall_of_fame": 0}, "hall_of_fame is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        require(Evolution(**options), 0.9, 1000, 1)


def test_several_objectives_want_nsga2() -> None:
    with pytest.raises(ep.InputError, match=r"selection is 'best' with 2 objectives; expected nsga2"):
        require(Evolution(selection="best"), 0.9, 1000, 2)
    with pytest.raises(ep.InputError, match=r"generational with 2 objectives; expected mu\+lambda"):
        require(Evolution(algorithm="generational"), 0.9, 1000, 2)
    require(Evolution(selection="nsga2"), 0.9, 1000, 2)
