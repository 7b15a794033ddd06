"""Gradual magnitude pruning, against the published formula and on every engine."""

import dataclasses

import numpy as np
import pytest
from support.schedules import course_of, problem_of, watched

import evoprune as ep
from evoprune.search.registry import find_method
from evoprune.training.final import Training, train_fully
from evoprune.training.gradual import Gradual, GradualOptions
from evoprune.training.registry import SCHEDULES
from evoprune.training.schedule import initial_mask


@pytest.mark.parametrize("first_sparsity", [0.0, 0.5])
@pytest.mark.parametrize(("every", "until"), [(None, 0.5), (None, 1.0), (7, 0.5), (1, 0.1), (80, 0.5)])
def test_survivors_follow_the_cubic_schedule(every: int | None, until: float, first_sparsity: float) -> None:
    problem = problem_of(epochs=4)  # of 20 steps
    n, last = problem.prunable_count, 0.95
    changes = course_of(problem, Gradual(problem, last, GradualOptions(first_sparsity, until, every)))
    interval = every or 20
    count = max(1, int(until * 80 / interval))
    expected = [
        (i * interval, round((1 - (last + (first_sparsity - last) * (1 - i / count) ** 3)) * n)) for i in range(1, count + 1)
    ]
    assert [(change["step"], change["survivors"]) for change in changes] == expected
    assert changes[-1]["survivors"] == round(0.05 * n)
    assert all(change["grown"] == 0 for change in changes)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_smallest_weights_go(scope: str) -> None:
    problem = problem_of(epochs=4)
    before, weights, after = watched(problem, Gradual(problem, 0.9, GradualOptions(scope=scope)))[0]
    assert before.survivors == problem.prunable_count
    sizes = dict(
        zip(problem.shapes, np.split(np.abs(weights), np.cumsum([m.size for m in after.layers.values()])[:-1]), strict=True)
    )
    kept = {name: layer.ravel() for name, layer in after.layers.items()}
    if scope == "global":
        kept, sizes = {"all": after.bits}, {"all": np.abs(weights)}
    else:
        assert max(bits.mean() for bits in kept.values()) - min(bits.mean() for bits in kept.values()) < 0.01
    for name, bits in kept.items():
        assert sizes[name][bits].min() > sizes[name][~bits].max()


def test_the_cost_that_is_planned_is_the_cost() -> None:
    problem = problem_of(epochs=6)
    for name in ("gmp", "rigl", "set", "granet"):
        method = find_method(name)
        options = method.Options(sparsity=0.9)
        if name in ("rigl", "granet"):
            options = dataclasses.replace(options, schedule=dataclasses.replace(options.schedule, every=10))
        result = ep.prune(problem, name, **{"sparsity": 0.9, "schedule": options.schedule})
        dense = ep.prune(problem, "dense").summary["multiply_adds"]
        planned = method.cost(problem, options)(6)
        assert result.summary["multiply_adds"] / dense * 6 == pytest.approx(planned, rel=0.05)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"dissipate"}))
def test_a_restart_trains_the_mask_that_was_found_from_w0(name: str) -> None:
    problem, more = problem_of(epochs=4), {} if name in ("gmp", "set") else {"every": 15}
    found = ep.prune(problem, name, sparsity=0.9, restart=True, **more)
    plain = ep.prune(problem, name, sparsity=0.9, **more)
    assert found.mask == plain.mask
    assert found.summary["search_epochs"] == plain.summary["search_epochs"] <= 4
    assert found.summary["total_epochs"] == found.summary["search_epochs"] + 4
    assert found.summary["multiply_adds"] > plain.summary["multiply_adds"]


WRONG = {
    "first_sparsity": ({"first_sparsity": 0.95}, "first_sparsity is 0.95 and sparsity 0.9"),
    "negative": ({"first_sparsity": -0.5}, "sparsity is -0.5"),
    "until": ({"prune_until": 0.0}, "prune_until is 0.0"),
    "not a number": ({"prune_until": float("nan")}, "prune_until is nan"),
    "every": ({"every": 0}, "every is 0"),
    "scope": ({"scope": "layers"}, "scope"),
    "too long": ({"every": 1000}, "every is 1000, but the training has 40 steps"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_values_are_refused_before_any_work(name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(ep.InputError, match=message):
        ep.prune(problem_of(), "gmp", sparsity=0.9, **options)


def test_dissipating_by_magnitude_on_the_cubic_schedule_is_gradual_pruning() -> None:
    problem = problem_of(epochs=8)
    options = {"dissipate_epochs": 4, "movement": "magnitude", "course": "cubic"}
    dissipated = ep.dissipate(problem, sparsity=0.9, **options)
    pruned = ep.prune(problem, "gmp", sparsity=0.9)
    counts = [[row["survivors"] for row in result.trainings["winner"].history] for result in (dissipated, pruned)]
    assert np.abs(np.subtract(*counts)).max() <= 1  # each rounds
    assert dissipated.mask.iou(pruned.mask) > 0.99


def test_evolutions_start_from_schedules() -> None:
    problem = problem_of(epochs=4)
    evolution = ep.Evolution(k=2, generations=0, start=("gmp", "set"))
    result = ep.evolve(problem, evolution, sparsity=0.9, fitness_epochs=1, controls=False, trained_bests=0)
    expected = {ep.prune(problem, name, sparsity=0.9).mask.hash for name in ("gmp", "set")}
    assert {mask.hash for mask in result.population} == expected


def test_training_is_as_long_as_masks_change() -> None:
    problem = problem_of(epochs=4)
    schedule = Gradual(problem, 0.9)
    assert schedule.last == 2
    training = Training("sparse", 0, 1, None, lambda: Gradual(problem, 0.9), schedule.last)
    half = train_fully(problem, initial_mask(schedule, problem, 0), training)
    assert half.mask.survivors == round(0.1 * problem.prunable_count)
