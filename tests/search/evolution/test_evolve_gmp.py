"""Evolution over courses of gradual pruning."""

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.comparing import assert_same
from support.tables import read_table

import evoprune as ep
from evoprune.runs import records
from evoprune.search.evolution import evolve_gmp
from evoprune.search.evolution.courses import DECAY, LAYER, UNTIL, Course, breed, make_operators, train_course
from evoprune.search.evolution.evolve_gmp import EvolveGmp, EvolveGmpOptions
from evoprune.training.cost import multiply_adds
from evoprune.training.final import Training, train_fully
from evoprune.training.gradual import Gradual, GradualOptions

EPOCHS, SPARSITY = 6, 0.9
OPTIONS = {"sparsity": SPARSITY, "fitness_epochs": 2, "k": 2, "starts": 3, "offspring": 2, "generations": 2}


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp", "digits", ep.Recipe(epochs=EPOCHS), widths=(24, 16))


def dense(problem: ep.Problem) -> ep.Mask:
    return ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes)


def evolve(problem: ep.Problem, **options: Any) -> ep.Result:
    return ep.prune(problem, "evolve-gmp", **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gmp") / "run"


@pytest.fixture(scope="module")
def result(problem: ep.Problem, folder: Path) -> ep.Result:
    return evolve(problem, out=folder)


def test_the_first_course_is_gradual_pruning_under_its_decay(problem: ep.Problem, folder: Path, result: ep.Result) -> None:
    first = read_table(folder / "genes.csv")[0]
    stronger = ep.Problem("mlp", "digits", ep.Recipe(epochs=EPOCHS, weight_decay=4 * 5e-4), widths=(24, 16))
    mean = (64 * 24 * 16) ** (1 / 3)
    options = GradualOptions(layer_factors=tuple((fan / mean) ** 0.25 for fan in (64, 24, 16)))
    how = Training("auto", ep.seeds.integer(0, "order"), epochs=3, free_after=0)
    training = train_fully(stronger, dense(problem), replace(how, schedule=lambda: Gradual(stronger, SPARSITY, options)))
    assert first["mask"] == training.mask.hash == result.summary["controls"]["start"]["mask"]
    assert (first["decay_factor"], first["prune_until"]) == (4, 0.5)


def test_the_winner_is_the_fittest_and_its_genes_are_told(problem: ep.Problem, folder: Path, result: ep.Result) -> None:
    rows = read_table(folder / "genes.csv")
    assert [row["gen"] for row in rows] == [0, 0, 0, 1, 1, 2, 2]
    best = max(rows, key=lambda row: row["fitness"])
    assert result.mask.survivors == round((1 - SPARSITY) * problem.prunable_count)
    assert result.mask.hash == best["mask"]
    genes = records.read_json(folder / "result.json")["genes"]  # type: ignore[index]
    named = [genes["decay_factor"], genes["prune_until"], *genes["layer_factors"]]
    assert named == pytest.approx(list(best.values())[3:], rel=1e-12)
    evaluations = {row["mask"]: row["loss"] for row in read_table(folder / "evaluations.csv")}
    assert {row["mask"]: row["fitness"] for row in rows} == evaluations


def test_the_cost_has_every_course(problem: ep.Problem, folder: Path, result: ep.Result) -> None:
    steps = [records.read_json(path) for path in (folder / "checkpoint").glob("course-*.json")]
    evaluated = read_table(folder / "evaluations.csv")
    winner = multiply_adds(problem, result.mask)
    spent = math.fsum(step["cost"] for step in steps if step is not None)
    brief = math.fsum(row["multiply_adds"] for row in evaluated)
    assert result.summary["multiply_adds"] == pytest.approx(spent + brief + (EPOCHS - 2) * winner, rel=1e-12)
    alike = EvolveGmpOptions(**{**OPTIONS, "starts": 1, "generations": 0})
    planned = EvolveGmp.cost(problem, alike)(EPOCHS)
    lone = evolve(problem, starts=1, generations=0, k=1, controls=False)
    assert lone.summary["multiply_adds"] / multiply_adds(problem, dense(problem)) == pytest.approx(planned, rel=0.005)
    assert EvolveGmp.cost(problem, alike)(1) == math.inf


@pytest.mark.parametrize(("where", "at"), [*(("course", i) for i in range(1, 6)), ("evaluation", 1), ("evaluation", 3)])
def test_interrupted_and_resumed(
    problem: ep.Problem, folder: Path, result: ep.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, at: int
) -> None:
    place = (
        "evoprune.search.evolution.evolve_gmp.train_course" if where == "course" else "evoprune.workers.policy.evaluate_chunk"
    )
    with monkeypatch.context() as patch:
        patch.setattr(place, failing(place, at))
        with pytest.raises(KeyboardInterrupt):
            evolve(problem, out=tmp_path / "run")
    evolve(problem, out=tmp_path / "run")
    assert_same(folder, tmp_path / "run", without=["bests.csv", "hall_of_fame"])
    assert (tmp_path / "run" / "genes.csv").read_bytes() == (folder / "genes.csv").read_bytes()


def failing(place: str, at: int) -> Any:
    """Returns a function that is interrupted in its call of that number."""
    module, _, name = place.rpartition(".")
    function = getattr(__import__(module, fromlist=[name]), name)
    calls = []

    def call(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def test_sparse_starts_differ(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watch(problem: ep.Problem, genes: Any, start: ep.Mask, *how: Any) -> Any:
        seen.append(start)
        return train_course(problem, genes, start, *how)

    monkeypatch.setattr(evolve_gmp, "train_course", watch)
    evolve(problem, first_sparsity=0.5)
    assert {mask.survivors for mask in seen} == {round(0.5 * problem.prunable_count)}
    assert len({mask.hash for mask in seen[:3]}) == 3
    assert {mask.hash for mask in seen[3:]} <= {mask.hash for mask in seen[:3]}  # a child has its parent's


def test_a_course_that_diverges_has_the_worst_fitness(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(problem: ep.Problem, genes: Any, *how: Any) -> Any:
        facts, tensors = train_course(problem, genes, *how)
        return {**facts, "divergence": "" if genes.decay_factor == 4 else "weights not finite"}, tensors

    monkeypatch.setattr(evolve_gmp, "train_course", diverge)
    result = evolve(problem, step=3.0)
    assert result.summary["genes"]["decay_factor"] == 4
    monkeypatch.setattr(
        evolve_gmp, "train_course", lambda *how: ({**train_course(*how)[0], "divergence": "loss"}, train_course(*how)[1])
    )
    with pytest.raises(ep.RunError, match="all courses of pruning diverged"):
        evolve(problem)


def test_told_again_after_a_resume(problem: ep.Problem, tmp_path: Path) -> None:
    """Generations of masks whose fitness is known need no telling, now and after a resume."""
    fitness = {}

    def tell(search: ep.Search) -> list[str]:
        masks = search.ask()
        fitness.update({mask.hash: float(len(fitness)) for mask in masks if mask.hash not in fitness})
        search.tell(masks, [fitness[mask.hash] for mask in masks])
        return [mask.hash for mask in masks]

    options = {**OPTIONS, "step": 1e-9, "out": tmp_path / "run"}  # such small steps end with the same masks
    with ep.Search(problem, "evolve-gmp", **options) as search:
        told = tell(search)
        assert search.finished
        best = search.best
    assert len(set(told)) == 1
    with ep.Search(problem, "evolve-gmp", **options) as search:
        assert search.finished
        assert search.best == best


def test_an_own_engine_trains_courses_in_this_process(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve_gmp, "ENGINES", SimpleNamespace(own={"mine": None}))
    session = SimpleNamespace(execution=SimpleNamespace(engine="mine"), run=None)
    monkeypatch.setattr(evolve_gmp, "train_course", lambda *task: task)
    assert list(EvolveGmp._run(SimpleNamespace(session=session), [(1,), (2,)])) == [(0, (1,)), (1, (2,))]


def test_genes_stay_within_their_bounds(problem: ep.Problem) -> None:
    start, operators, stream = dense(problem), make_operators(20.0), random.Random(0)
    population = [Course([3.0, 0.5, 0.0, 0.0, 0.0], start), Course([1.0, 0.3, 1.0, 1.0, 1.0], start)]
    for course in population:
        course.fitness.values = (0.0,)
    for child in breed(population, operators, 50, 0.5, stream):
        genes = child.genes
        assert 2.0 ** DECAY[0] <= genes.decay_factor <= 2.0 ** DECAY[1]
        assert UNTIL[0] <= genes.prune_until <= UNTIL[1]
        assert all(2.0 ** LAYER[0] <= factor <= 2.0 ** LAYER[1] for factor in genes.layer_factors)
        assert not child.fitness.valid
    assert [list(course) for course in population] == [[3.0, 0.5, 0.0, 0.0, 0.0], [1.0, 0.3, 1.0, 1.0, 1.0]]
    assert all(list(child) not in [list(p) for p in population] for child in breed(population, operators, 20, 0.0, stream))


def test_layer_factors_decide_between_layers(problem: ep.Problem) -> None:
    masks = {}
    for factor in (0.25, 1.0, 4.0):
        schedule = GradualOptions(layer_factors=(1.0, 1.0, factor))
        how = Training("module", 0, schedule=lambda schedule=schedule: Gradual(problem, SPARSITY, schedule), epochs=3)  # type: ignore[misc]
        masks[factor] = train_fully(problem, dense(problem), how).mask
    last = [list(mask.layers.values())[-1].sum() for mask in masks.values()]
    assert last[0] < last[1] < last[2]
    assert {mask.survivors for mask in masks.values()} == {round((1 - SPARSITY) * problem.prunable_count)}
    plain = Training("module", 0, schedule=lambda: Gradual(problem, SPARSITY), epochs=3)
    assert masks[1.0] == train_fully(problem, dense(problem), plain).mask


@pytest.mark.parametrize("factors", [(1.0, 2.0), (1.0, 1.0, 0.0), (1.0, 1.0, -1.0)])
def test_bad_layer_factors_are_refused(problem: ep.Problem, factors: tuple[float, ...]) -> None:
    with pytest.raises(ep.InputError, match="expected 3 positive numbers"):
        ep.prune(problem, "gmp", sparsity=SPARSITY, layer_factors=factors)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"k": 0}, "k is 0"), ({"fitness": ("loss", "accuracy")}, "one objective"),
        ({"starts": 0}, "starts is 0"), ({"offspring": 0}, "offspring is 0"),
        ({"generations": -1}, "generations is -1"), ({"step": 0}, "step is 0"), ({"step": math.nan}, "step is nan"),
        ({"decay_factor": 100}, "decay_factor is 100"), ({"prune_until": 0.95}, "prune_until is 0.95"),
        ({"fan_in_power": 2}, "fan_in_power is 2"), ({"first_sparsity": 0.95}, "first_sparsity is 0.95"),
        ({"crossover_probability": 2}, "crossover_probability is 2"),
        ({"step": "x"}, "step is 'x'"), ({"decay_factor": None}, "decay_factor is None"),
        ({"fitness_epochs": 7}, "fitness_epochs is 7"), ({"sparsity": 1.0}, "sparsity"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(problem: ep.Problem, given: dict[str, Any], named: str) -> None:
    with pytest.raises(ep.InputError, match=named):
        evolve(problem, **given)


def test_no_decay_is_said(problem: ep.Problem) -> None:
    without = problem.with_recipe(replace(problem.recipe, weight_decay=0.0))
    with pytest.warns(UserWarning, match="decay_factor has no effect"):
        evolve(without, generations=0, starts=1)


def test_another_recipe_leaves_the_problem_as_it_was(problem: ep.Problem) -> None:
    before, recipe = problem.hash, replace(problem.recipe, lr=0.01)
    twin = problem.with_recipe(recipe)
    assert problem.hash == before != twin.hash == ep.Problem("mlp", "digits", recipe, widths=(24, 16)).hash
    assert twin.recipe.lr == 0.01
    assert problem.recipe.lr == 0.05
