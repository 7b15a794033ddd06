"""DEAP as its users run it: pools, decorators, islands, operators and fitness classes of their own."""

import concurrent.futures
import functools
import multiprocessing
import os
import pickle
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from deap import algorithms, base, creator, tools
from support.processes import python, python_anew

import evoprune as ep
from evoprune.operators import CROSSOVERS, MUTATIONS, Evidence, keep_survivors, repair
from evoprune.system import forks
from evoprune.training.threads import torch_threads

SPARSITY = 0.9
SEEDED = np.random.default_rng


class FitnessMin(ep.Fitness):
    weights = (-1.0,)


class MinMax(ep.Fitness):
    weights = (-1.0, 2.0)


class Undeclared(ep.Fitness):
    pass


creator.create("CreatedMin", ep.Fitness, weights=(-1.0,))


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=ep.Recipe(epochs=1), seed=0)


def make_toolbox(problem: ep.Problem, **options: object) -> base.Toolbox:
    return ep.make_toolbox(problem, **{"sparsity": SPARSITY, "fitness": "loss", "fitness_epochs": 1} | options)


@pytest.fixture
def toolbox(problem: ep.Problem) -> base.Toolbox:
    return make_toolbox(problem)


@pytest.fixture
def busy() -> None:
    """The parent has used several threads, which a forked child has not."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    torch.randn(600, 600) @ torch.randn(600, 600)
    torch.randn(2_000_000).exp().sum()
    yield
    torch.set_num_threads(before)


# Maps over processes

GLOBAL: dict[str, object] = {}


def evaluate_global(mask: ep.Mask) -> tuple[float, ...]:
    return GLOBAL["evaluator"](mask)


def describe(problem: ep.Problem, mask: ep.Mask) -> tuple[str, str]:
    return str(mask.collapse(problem)), ep.baselines.snip(problem, sparsity=0.5).hash


def _pool(how: str, context: str, **options: object):
    def run(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
        with multiprocessing.get_context(context).Pool(2, **options) as pool:
            if how == "map":
                return pool.map_async(toolbox.evaluate, masks).get(timeout=60)
            if how == "starmap":
                return pool.starmap_async(toolbox.evaluate, [(mask,) for mask in masks]).get(timeout=60)
            found = pool.imap(toolbox.evaluate, masks)
            return [found.next(timeout=60) for _ in masks]

    return run


def _executor(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        return list(executor.map(toolbox.evaluate, masks, timeout=60))


def _global(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
    GLOBAL["evaluator"] = toolbox.evaluate
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map_async(evaluate_global, masks).get(timeout=60)


def _threads(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
    with multiprocessing.pool.ThreadPool(1) as pool:
        return pool.map_async(toolbox.evaluate, masks).get(timeout=60)


MAPS = {
    "fork": _pool("map", "fork"),
    "fork, imap": _pool("imap", "fork"),
    "fork, starmap": _pool("starmap", "fork"),
    "fork, a task a child": _pool("map", "fork", maxtasksperchild=1),
    "fork, executor": _executor,
    "fork, evaluator in a global": _global,
    "thread": _threads,
}


@pytest.mark.process
@pytest.mark.parametrize("name", MAPS)
def test_maps_over_processes_answer_with_equal_values(name: str, toolbox: base.Toolbox, busy: None) -> None:
    masks = toolbox.population(n=3)
    given = toolbox.evaluate.func
    expected = [ep.Evaluator(given.problem, fitness="loss", epochs=1, engine=given.brief.engine)(mask) for mask in masks]
    assert MAPS[name](toolbox, masks) == expected


@pytest.mark.process
@pytest.mark.parametrize("context", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_started_processes_answer_with_equal_values(context: str, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
import evoprune as ep
toolbox = ep.make_toolbox(ep.Problem(model="mlp", widths=(24, 16), seed=0), fitness="loss", fitness_epochs=1)
if __name__ == "__main__":
    masks = toolbox.population(n=2)
    with multiprocessing.get_context({context!r}).Pool(1) as pool:
        assert pool.map_async(toolbox.evaluate, masks).get(timeout=100) == list(map(toolbox.evaluate, masks))
""")
    code, output = python(script)
    assert code == 0, output


@pytest.mark.process
def test_all_else_works_in_a_forked_process_too(problem: ep.Problem, toolbox: base.Toolbox, busy: None) -> None:
    mask = toolbox.individual()
    large = ep.Problem("lenet-300-100", "digits", seed=1)  # whose weights torch copies with several threads
    with multiprocessing.get_context("fork").Pool(1) as pool:
        for each, found in ((problem, mask), (large, ep.random_mask(large.shapes, 0.9, SEEDED(0)))):
            assert pool.apply_async(describe, (each, found)).get(timeout=60) == describe(each, found)


@pytest.mark.process
def test_several_threads_are_refused_in_a_forked_process(problem: ep.Problem) -> None:
    toolbox = make_toolbox(problem, threads=2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        call = pool.apply_async(toolbox.evaluate, (toolbox.individual(),))
        with pytest.raises(ep.InputError, match=r"threads is 2, but a forked process can use one only.*spawn"):
            call.get(timeout=60)


def test_a_forked_process_keeps_one_thread(monkeypatch: pytest.MonkeyPatch, busy: None) -> None:
    assert not forks.is_forked()
    monkeypatch.setattr(forks, "_IMPORTED_BY", os.getppid())
    assert forks.is_forked()
    with torch_threads(1):
        pass
    assert torch.get_num_threads() == 1


def test_an_autograd_that_a_fork_broke_is_no_fact_about_a_mask(monkeypatch: pytest.MonkeyPatch, toolbox: base.Toolbox) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing.")

    monkeypatch.setattr(forks, "_IMPORTED_BY", os.getppid())
    monkeypatch.setattr(torch.Tensor, "backward", broken)
    with pytest.raises(ep.InputError, match=r"PyTorch cannot train in this forked process.*spawn"):
        toolbox.evaluate(toolbox.individual())


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


# The number of survivors

FOREIGN_MATES = {"cxTwoPoint": (tools.cxTwoPoint, {}), "cxUniform": (tools.cxUniform, {"indpb": 0.3})}
FOREIGN_MUTATIONS = {"mutFlipBit": (tools.mutFlipBit, {"indpb": 0.05})}


def drifting(problem: ep.Problem, **options: object) -> base.Toolbox:
    toolbox = make_toolbox(problem, **options)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.02)
    return toolbox


def run(toolbox: base.Toolbox, generations: int = 2) -> list[ep.Mask]:
    random.seed(0)
    population, _ = algorithms.eaSimple(toolbox.population(n=4), toolbox, 0.5, 0.5, generations, verbose=False)
    return population


@pytest.mark.parametrize("own_map", [True, False])
def test_a_drifting_number_of_survivors_is_said_once(problem: ep.Problem, own_map: bool) -> None:
    toolbox = drifting(problem)
    if not own_map:
        toolbox.register("map", map)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(toolbox)
    (warning,) = said
    assert f"survivors is evaluated, where {toolbox.evaluate.func.check_survivors.survivors:,} were expected" in str(
        warning.message
    )
    assert "keep_survivors" in str(warning.message)
    assert "repair=True" in str(warning.message)


@pytest.mark.parametrize("own_map", [True, False])
def test_repair_keeps_the_number_in_the_population(problem: ep.Problem, own_map: bool) -> None:
    toolbox = drifting(problem, repair=True)
    if not own_map:
        toolbox.register("map", map)
    population = run(toolbox)
    assert {mask.survivors for mask in population} == {toolbox.evaluate.func.check_survivors.survivors}
    evaluated = toolbox.evaluate.func.known
    assert all(mask.fitness.values == (evaluated[mask.hash].terms["loss"],) for mask in population)
    again = drifting(problem, repair=True)
    assert run(again) == population


def test_equal_masks_are_repaired_equally(problem: ep.Problem) -> None:
    masks = [ep.random_mask(problem.shapes, 0.85, SEEDED(0)) for _ in range(2)]
    for mask in masks:
        make_toolbox(problem, repair=True).evaluate(mask)
    assert masks[0] == masks[1]
    assert masks[0].survivors == round(0.1 * problem.prunable_count)


@pytest.mark.process
@pytest.mark.parametrize("way", [_pool("map", "fork"), _global])
def test_a_copy_is_not_repaired_in_vain(problem: ep.Problem, way) -> None:
    toolbox = make_toolbox(problem, repair=True)
    right, wrong = toolbox.individual(), ep.random_mask(problem.shapes, 0.85, SEEDED(0))
    assert way(toolbox, [right]) == [toolbox.evaluate(right)]
    with pytest.raises(ep.InputError, match=r"this process has a copy.*keep_survivors"):
        way(toolbox, [wrong])


@pytest.mark.parametrize("operator", [*FOREIGN_MATES, *FOREIGN_MUTATIONS])
def test_a_decorated_operator_keeps_survivors(problem: ep.Problem, operator: str) -> None:
    function, options = (FOREIGN_MATES | FOREIGN_MUTATIONS)[operator]
    toolbox = make_toolbox(problem)
    toolbox.register("vary", function, **options)
    toolbox.decorate("vary", keep_survivors(rng=SEEDED(0)))
    parents = toolbox.population(n=2 if operator in FOREIGN_MATES else 1)
    random.seed(1)
    children = toolbox.vary(*map(toolbox.clone, parents))
    assert [child.survivors for child in children] == [parent.survivors for parent in parents]
    assert children[0] != parents[0]
    random.seed(1)
    copied = pickle.loads(pickle.dumps(toolbox.vary))
    assert [child.survivors for child in copied(*map(toolbox.clone, parents))] == [child.survivors for child in children]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
@pytest.mark.parametrize("crossover", sorted(CROSSOVERS))
def test_operators_of_the_package_do_not_drift(problem: ep.Problem, mutation: str, crossover: str) -> None:
    toolbox = make_toolbox(problem, sparsity=0.8, evidence=0.1, repair=True)  # which would undo it
    rng = SEEDED(0)
    options = {"sparsity": {"low": 0.7, "high": 0.9}, "informed": {"missing": "random"}}.get(mutation, {})
    toolbox.register("mutate", MUTATIONS[mutation], fraction=0.1, rng=rng, **options)
    toolbox.register("mate", CROSSOVERS[crossover], rng=rng)
    numbers = {mask.survivors for mask in run(toolbox, 1)}
    assert (numbers == {toolbox.evaluate.func.check_survivors.survivors}) == (mutation != "sparsity")


def test_where_sparsity_is_an_objective_any_number_will_do(problem: ep.Problem) -> None:
    toolbox = drifting(problem, fitness=("loss", "sparsity"))
    toolbox.register("select", tools.selNSGA2)
    run(toolbox, 1)


@pytest.mark.parametrize("survivors", [0, 3, 9, 12])
def test_repair_meets_the_number(survivors: int) -> None:
    mask = ep.random_mask({"w": (3, 4)}, 0.5, SEEDED(0))
    before = mask.bits.copy()
    assert repair(mask, rng=SEEDED(1), survivors=survivors) == (mask,)
    assert mask.survivors == survivors
    assert (before <= mask.bits).all() or (before >= mask.bits).all()


@pytest.mark.parametrize("survivors", [-1, 13, 1.0, True])
def test_repair_refuses_other_numbers(survivors: object) -> None:
    with pytest.raises(ep.InputError, match="from 0 to the 12 weights"):
        repair(ep.random_mask({"w": (3, 4)}, 0.5, SEEDED(0)), rng=SEEDED(1), survivors=survivors)


def test_an_evaluator_repairs_to_a_number(problem: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match="repair is True, but survivors is None"):
        ep.Evaluator(problem, epochs=1, repair=True)


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


# Islands: whole algorithms in workers


def deme(toolbox: base.Toolbox, population: list[ep.Mask], statistics: tools.Statistics, best: tools.HallOfFame) -> object:
    random.seed(5)
    found = algorithms.eaSimple(population, toolbox, 0.5, 0.5, 1, stats=statistics, halloffame=best, verbose=False)
    return *found, best


def island(problem: ep.Problem, select: object) -> tuple[object, ...]:
    toolbox = make_toolbox(problem, evidence=0.1, workers="serial")
    toolbox.register("mutate", ep.operators.informed, fraction=0.1, missing="random", rng=SEEDED(0))
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.decorate("mate", keep_survivors(rng=SEEDED(1)))
    if select is not None:
        toolbox.register("select", select, tournsize=3)
    return toolbox, toolbox.population(n=4), ep.make_statistics(), tools.HallOfFame(1)


@pytest.mark.process
@pytest.mark.parametrize("select", [None, tools.selTournament])
def test_a_deme_evolves_in_a_forked_worker(problem: ep.Problem, select: object, busy: None) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        population, logbook, best = pool.apply_async(deme, island(problem, select)).get(timeout=100)
    expected, log, fittest = deme(*island(problem, select))
    assert population == expected
    assert [mask.fitness for mask in population] == [mask.fitness for mask in expected]
    assert [mask.evidence.still.tolist() for mask in population if mask.fitness.valid]
    assert logbook == log
    assert best.items == fittest.items


def test_a_toolbox_that_holds_its_algorithm_pickles(problem: ep.Problem) -> None:
    toolbox, population, *_ = island(problem, None)
    toolbox.register("algorithm", algorithms.eaSimple, toolbox=toolbox, cxpb=0.5, mutpb=0.5, ngen=1, verbose=False)
    algorithm = pickle.loads(pickle.dumps(toolbox.algorithm))  # a pool's pickler cannot, whatever the toolbox
    random.seed(5)
    found, _ = algorithm(pickle.loads(pickle.dumps(population)))
    assert found == deme(*island(problem, None))[0]


def test_a_copied_toolbox_draws_what_the_original_draws(toolbox: base.Toolbox) -> None:
    masks = toolbox.population(n=8)
    for i, mask in enumerate(masks):
        mask.fitness.values = (float(i),)
    copied = pickle.loads(pickle.dumps(toolbox))
    for alias in ("clone", "map", "individual", "population", "evaluate", "select"):
        assert hasattr(copied, alias)
    assert copied.individual() == toolbox.individual()
    assert [m.fitness.values for m in copied.select(masks, 5)] == [m.fitness.values for m in toolbox.select(masks, 5)]


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


SWEEP = """
import multiprocessing, sys
import torch
import evoprune as ep

x = torch.randn(3000, 784, generator=torch.Generator().manual_seed(0))
y = torch.arange(3000) % 10

def sweep(seed):
    problem = ep.Problem(model="mlp", data=ep.Data(train=(x, y)), seed=seed, recipe=ep.Recipe(epochs=1))
    return ep.baselines.snip(problem, sparsity=0.5).survivors

if __name__ == "__main__":
    torch.set_num_threads(2)
    for _ in range(3):
        torch.nn.functional.linear(torch.randn(4000, 640, requires_grad=True), torch.randn(640, 640)).sum().backward()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map_async(sweep, [0, 1]).get(60))
"""


@pytest.mark.process
def test_a_forked_process_makes_its_own_problem(tmp_path: Path) -> None:
    (tmp_path / "sweep.py").write_text(SWEEP)
    code, output = python_anew(tmp_path / "sweep.py", deadline=100)
    assert code == 0, output
    assert output.splitlines()[-1] == "[54592, 54592]"
