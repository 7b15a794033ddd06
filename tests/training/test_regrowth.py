"""SET, RigL and GraNet: the numbers of their papers, on every engine."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.schedules import course_of, problem_of, watched

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.training.loop import train
from evoprune.training.registry import SCHEDULES
from evoprune.training.regrowth import SET, GraNet, GraNetOptions, RigL, RigLOptions, SETOptions
from evoprune.training.schedule import initial_mask


def layers_of(mask: ep.Mask) -> list[int]:
    return [int(layer.sum()) for layer in mask.layers.values()]


def pieces(mask: ep.Mask, values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum([layer.size for layer in mask.layers.values()])[:-1])


@pytest.mark.parametrize("every", [7, 20, None])
def test_rigl_keeps_the_counts_of_layers_and_drops_ever_fewer(every: int | None) -> None:
    problem = problem_of(epochs=4)  # 80 steps
    seen = watched(problem, RigL(problem, 0.8, RigLOptions(every=every)))
    interval = every or 20
    steps = [step for step in range(interval, 80, interval) if step < 60]
    assert len(seen) == len(steps)
    start = ep.random_mask(problem.shapes, 0.8, np.random.default_rng(0), "erk")
    for step, (before, weights, after) in zip(steps, seen, strict=True):
        assert layers_of(before) == layers_of(after) == layers_of(start)
        fraction = 0.3 / 2 * (1 + math.cos(math.pi * step / 60))
        for kept, gone, sizes in zip(
            pieces(after, after.bits), pieces(before, before.bits), pieces(after, weights), strict=True
        ):
            most = round(fraction * gone.sum())
            dropped = gone & ~kept
            assert dropped.sum() <= most  # one that is dropped may grow at once
            if dropped.any():
                order = np.argsort(np.abs(sizes)[gone], kind="stable")
                assert set(np.flatnonzero(dropped)) <= set(np.flatnonzero(gone)[order[:most]])


def test_rigl_grows_the_largest_gradients() -> None:
    problem = problem_of(epochs=2)
    schedule = RigL(problem, 0.8, RigLOptions(every=15, regrow_until=0.5))
    gradients: list[np.ndarray] = []

    class Spy:
        every = schedule.every

        def masks_after(self, moment):
            gradients.append(moment.gradients(0))
            return schedule.masks_after(moment)

    population = ENGINES["module"].build(problem, [initial_mask(schedule, problem, 0)])
    before = population.masks[0]
    train(population, problem, 1, 0, schedule=Spy())
    after = population.masks[0]
    for old, new, gradient in zip(*(pieces(before, v) for v in (before.bits, after.bits, gradients[0])), strict=True):
        grown, passed = new & ~old, ~new & ~old
        assert grown.any()
        assert gradient[grown].min() >= gradient[passed].max()


def test_set_changes_after_each_epoch_but_the_last_and_takes_no_gradient() -> None:
    problem = problem_of(epochs=4)
    changes = course_of(problem, SET(problem, 0.8))
    assert [change["epoch"] for change in changes] == [1, 2, 3]
    assert len({change["survivors"] for change in changes}) == 1
    alive = changes[0]["layers"]
    for change in changes:
        assert change["layers"] == alive
        assert 0 < change["grown"] == change["dropped"] <= sum(round(0.3 * count) for count in alive.values())
    result = ep.prune(problem, "set", sparsity=0.8)
    dense = ep.prune(problem, "dense").summary["multiply_adds"]
    assert result.summary["multiply_adds"] == pytest.approx(0.2 * dense, rel=0.01)  # no gradient was counted


def test_granet_prunes_by_the_cubic_schedule_and_regrows_after() -> None:
    problem = problem_of(epochs=4)
    n = problem.prunable_count
    changes = course_of(problem, GraNet(problem, 0.95, GraNetOptions(every=10, first_sparsity=0.5)))
    counts = [change["survivors"] for change in changes]
    assert [change["step"] for change in changes] == [10, 20, 30, 40, 50]  # until step 60
    assert counts == [round((0.05 + 0.45 * (1 - min(i, 4) / 4) ** 3) * n) for i in range(1, 6)]
    assert all(a["grown"] > 0 for a in changes)
    assert changes[-1]["layers"] == changes[-2]["layers"]


def test_granet_prunes_on_when_it_regrows_no_more() -> None:
    problem = problem_of(epochs=4)
    options = GraNetOptions(every=10, first_sparsity=0.5, regrow_until=0.3, prune_until=1.0)
    changes = course_of(problem, GraNet(problem, 0.95, options))
    assert [change["step"] for change in changes] == list(range(10, 81, 10))
    assert [change["grown"] > 0 for change in changes] == [True, True] + [False] * 6
    assert changes[-1]["survivors"] == round(0.05 * problem.prunable_count)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("grow", ["gradient", "soft", "random"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"dissipate"}))
def test_the_same_on_every_engine(name: str, optimizer: str, grow: str) -> None:
    problem = problem_of(3, optimizer)
    options = {"gmp": None, "set": SETOptions(grow=grow), "rigl": RigLOptions(every=9, grow=grow)}
    options["granet"] = GraNetOptions(every=9, grow=grow)
    if name == "gmp" and grow != "gradient":
        pytest.skip("nothing grows")
    masks = [ep.random_mask(problem.shapes, 0.6, np.random.default_rng(k), "erk") for k in range(2)]
    found = {}
    for engine in sorted(ENGINES):
        groups = [masks] if ENGINES[engine].capacity is None else [[mask] for mask in masks]
        populations = []
        for group in groups:
            population = ENGINES[engine].build(problem, group)
            train(population, problem, 3, 0, schedule=SCHEDULES[name](problem, 0.9, *filter(None, [options[name]])))
            populations += [(population.masks[k], population.state(k)) for k in range(population.size)]
        found[engine] = populations
    for engine, individuals in found.items():
        for (mask, state), (reference, expected) in zip(individuals, found["module"], strict=True):
            assert mask == reference, engine
            for key, tensor in expected.items():
                torch.testing.assert_close(state[key], tensor, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["set", "rigl", "granet"])
def test_what_grows_is_zero_and_remembers_nothing(name: str) -> None:
    problem = problem_of(3)
    kinds = {"set": (SET, SETOptions()), "rigl": (RigL, RigLOptions(every=9)), "granet": (GraNet, GraNetOptions(every=9))}
    kind, options = kinds[name]
    seen = watched(problem, kind(problem, 0.9, options))
    assert len(seen) > 1
    for (_, _, after), (now, _, _) in pairwise(seen):
        assert after == now
    population = ENGINES["sparse"].build(problem, [seen[0][0]])
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    before = population.masks[0]
    for vector in population.weights:
        optimizer.state[vector]["momentum_buffer"] = torch.ones_like(vector)
    population.set_masks([seen[0][2]], optimizer)
    grown = seen[0][2].bits & ~before.bits
    assert grown.any()
    for tensors in (population.weights, [optimizer.state[v]["momentum_buffer"] for v in population.weights]):
        dense = population.unpack(0, tensors)
        values = np.concatenate([dense[layer].detach().numpy().ravel() for layer in problem.shapes])
        assert not values[grown].any()
        assert values[before.bits & seen[0][2].bits].any()


def test_soft_growth_draws_in_proportion_to_the_gradient() -> None:
    """Weights with twice the gradient grow twice as often where few of many grow."""
    problem = problem_of(1)
    bits = np.zeros(problem.prunable_count, bool)
    bits[:40] = True
    mask = ep.Mask(bits, problem.shapes)
    gradient = np.where(np.arange(len(bits)) % 2, 2.0, 1.0)
    gradient[40:200] = 0.0
    counts = np.zeros(len(bits))

    class Population:
        masks = (mask,)

    class Moment:
        def __init__(self, step: int) -> None:
            self.problem, self.population, self.seed, self.step = problem, Population, 5, step

        def gradients(self, k: int) -> np.ndarray:
            return gradient

        def weights(self, k: int) -> np.ndarray:
            return np.where(bits, 1.0, 0.0)

    from evoprune.training.regrowth import regrown

    for step in range(300):
        after = regrown(Moment(step), 0, mask, 0.0, RigLOptions(grow="soft", drop_fraction=0.5))  # type: ignore[arg-type]
        counts += after.bits & ~bits
    assert not counts[40:200].any()
    even, odd = counts[200::2].sum(), counts[201::2].sum()
    assert 1.6 < odd / even < 2.4


WRONG = {
    "fraction": ("rigl", {"drop_fraction": 1.5}, "drop_fraction is 1.5"),
    "decay": ("set", {"drop_decay": "cosin"}, "drop_decay"),
    "grow": ("rigl", {"grow": "gradients"}, "grow"),
    "until": ("rigl", {"regrow_until": 1.5}, "regrow_until is 1.5"),
    "never": ("rigl", {"every": 1000}, "never change"),
    "first": ("granet", {"first_sparsity": 0.99, "every": 5}, "first_sparsity is 0.99"),
    "unknown": ("rigl", {"everry": 3}, "every"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_values_are_refused_before_any_work(name: str) -> None:
    method, options, message = WRONG[name]
    with pytest.raises(ep.InputError, match=message):
        ep.prune(problem_of(3), method, sparsity=0.9, **options)


@pytest.mark.parametrize("name", ["rigl", "granet"])
def test_a_run_records_every_change(name: str, tmp_path) -> None:
    problem = problem_of(3)
    ep.prune(problem, name, sparsity=0.9, every=11, out=tmp_path / "run")
    import json

    changes = json.loads((tmp_path / "run" / "removals.json").read_text())["winner"]
    assert [change["step"] for change in changes] == list(range(11, 45, 11))
    assert all(sum(change["layers"].values()) == change["survivors"] for change in changes)
