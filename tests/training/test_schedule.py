"""Schedules of masks, tried with one that a user writes: it removes and grows."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.rigl import RigL

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.population import Population
from evoprune.engines.registry import ENGINES
from evoprune.search.registry import find_method
from evoprune.training.cost import multiply_adds
from evoprune.training.dissipation import Dissipating
from evoprune.training.final import FinalTraining, Training, train_from_w0, train_fully
from evoprune.training.gradient import BATCH, dense_gradient
from evoprune.training.loop import train
from evoprune.training.registry import SCHEDULES
from evoprune.training.schedule import Moment, initial_mask

OPTIMIZERS = {"SGD": {"lr": 0.05}, "Adam": {"optimizer": "Adam", "lr": 0.005}}


def small(optimizer: str = "SGD", epochs: int = 2) -> ep.Problem:
    """Twenty steps an epoch, in float64."""
    recipe = ep.Recipe(epochs=epochs, **OPTIMIZERS[optimizer])
    return ep.Problem("mlp", "digits", recipe, widths=(20, 10), dtype="float64")


def masks_of(problem: ep.Problem, engine: str, count: int = 3) -> list[ep.Mask]:
    rng = np.random.default_rng(0)
    return [ep.random_mask(problem.shapes, 0.8, rng) for _ in range(count)][: ENGINES[engine].capacity]


def build(problem: ep.Problem, engine: str) -> Population:
    return ENGINES[engine].build(problem, masks_of(problem, engine))


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_schedule_that_regrows_is_the_same_on_every_engine(engine: str, optimizer: str) -> None:
    problem = small(optimizer)
    trained = train(build(problem, engine), problem, 2, 3, schedule=RigL(problem, 0.8))
    for k, mask in enumerate(masks_of(problem, engine)):
        alone = train(ENGINES["module"].build(problem, [mask]), problem, 2, 3, schedule=RigL(problem, 0.8))
        assert trained.population.masks[k] == alone.population.masks[0] != mask
        for name, tensor in trained.population.state(k).items():
            torch.testing.assert_close(tensor, alone.population.state(0)[name], rtol=1e-9, atol=1e-12)
        sums = [each.population.survivor_values(i, each.gradients) for each, i in ((trained, k), (alone, 0))]
        torch.testing.assert_close(*sums, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(trained.epoch_costs[:, k], alone.epoch_costs[:, 0])


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch, engine: str) -> list[tuple[Any, ...]]:
    """Notes each change of masks: population, masks before and now, and the optimiser's memory at the weights that grow."""
    found: list[tuple[Any, ...]] = []
    kind = ENGINES[engine].kind
    set_masks = kind.set_masks

    def noting(self: Any, masks: Sequence[ep.Mask], optimizer: torch.optim.Optimizer, carried: Any = ()) -> Any:
        before = self.masks
        result = set_masks(self, masks, optimizer, carried)
        memories = [optimizer.state[parameter] for parameter in self.parameters()]
        keys = [key for key, value in memories[0].items() if value.ndim > 0]
        tensors = {key: [memory[key] for memory in memories] for key in keys} | {"weight": list(self.parameters())}
        found.append((before, list(masks), {key: dense_of(self, values) for key, values in tensors.items()}))
        return result

    monkeypatch.setattr(kind, "set_masks", noting)
    return found


def dense_of(population: Population, tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    names = population.masks[0].shapes
    parts = [population.unpack(k, [tensor.detach().clone() for tensor in tensors]) for k in range(population.size)]
    return [np.concatenate([part[name].numpy().ravel() for name in names]) for part in parts]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_what_grows_starts_at_zero_and_is_trained(engine: str, optimizer: str, changes: list[tuple[Any, ...]]) -> None:
    problem = small(optimizer)
    population = build(problem, engine)
    survivors = [mask.survivors for mask in population.masks]

    def after_epoch(epoch: int, population: Population, loss: object) -> None:
        for mask, weights in zip(population.masks, dense_of(population, list(population.parameters())), strict=True):
            assert not weights[~mask.bits].any()

    train(population, problem, 2, 3, after_epoch, RigL(problem, 0.8))
    assert len(changes) == 40 // 7
    for before, now, tensors in changes:
        assert [mask.survivors for mask in now] == survivors
        assert len(tensors) == (2 if optimizer == "SGD" else 3)
        for k, (old, new) in enumerate(zip(before, now, strict=True)):
            grown = new.bits & ~old.bits
            assert grown.sum() == round(0.2 * survivors[k])
            for values in tensors.values():
                assert not values[k][grown].any()
                assert not values[k][~new.bits].any() or values is not tensors["weight"]
                assert np.count_nonzero(values[k][old.bits & new.bits]) > 0.5 * (old.bits & new.bits).sum()
    for (before, now, _), (_, later, tensors) in itertools.pairwise(changes):
        grown = now[0].bits & ~before[0].bits & later[0].bits
        assert tensors["weight"][0][grown].all()


def test_a_schedule_sees_the_moment(engine: str) -> None:
    problem, seen = small(), []

    class Looks:
        every = 8

        def masks_after(self, moment: Moment) -> None:
            seen.append((moment.epoch, moment.step, moment.seed))
            for k in range(moment.population.size):
                state = moment.population.state(k)
                weights = np.concatenate([state[name].numpy().ravel() for name in problem.shapes])
                np.testing.assert_array_equal(moment.weights(k), weights)
                gradient = dense_gradient(problem, state, moment.seed, BATCH, moment.step)
                np.testing.assert_allclose(moment.gradients(k), gradient, rtol=1e-9, atol=1e-15)  # sparse has kernels for it
                assert gradient[~moment.population.masks[k].bits].any()

    trained = train(build(problem, engine), problem, 2, 3, schedule=Looks())
    undisturbed = train(build(problem, engine), problem, 2, 3)
    assert seen == [(0, 8, 3), (0, 16, 3), (1, 24, 3), (1, 32, 3), (2, 40, 3)]
    assert all(value.equal(undisturbed.population.state(0)[name]) for name, value in trained.population.state(0).items())


def test_at_the_end_of_each_epoch() -> None:
    problem, seen = small(), []

    class Looks:
        every = None

        def masks_after(self, moment: Moment) -> None:
            seen.append((moment.epoch, moment.step))

    train(build(problem, "module"), problem, 2, 3, schedule=Looks())
    assert seen == [(1, 20), (2, 40)]


def test_costs_are_of_the_masks_as_they_were_and_of_the_dense_gradients_taken() -> None:
    problem = small()
    n, first, second = len(problem.data.train[0]), *masks_of(problem, "stacked", 2)

    class Once:
        every = 5

        def masks_after(self, moment: Moment) -> list[ep.Mask] | None:
            if moment.step == 5:
                assert moment.gradients(0) is moment.gradients(0)
            return [second] if moment.step == 10 else None

    (costs,) = train(ENGINES["module"].build(problem, [first]), problem, 1, 3, schedule=Once()).epoch_costs
    dense = multiply_adds(problem, ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes))
    before, after = multiply_adds(problem, first), multiply_adds(problem, second)
    assert costs[0] == pytest.approx((640 * before + (n - 640) * after + BATCH * dense) / n, rel=1e-12)
    (plain,) = train(ENGINES["module"].build(problem, [first]), problem, 1, 3).epoch_costs
    assert plain[0] == before


def test_a_schedule_may_draw_and_measure_without_disturbing_the_training(tensors: ep.Data) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 3))
    problem = ep.Problem(network, tensors, ep.Recipe(epochs=2, batch_size=16))

    class Draws:
        every = 1

        def masks_after(self, moment: Moment) -> None:
            torch.rand(3), np.random.rand()
            moment.population.train(False)

    states = [train(build(problem, "module"), problem, 2, 3, schedule=s).population.state(0) for s in (None, Draws())]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


WRONG: dict[str, tuple[Callable[[Moment], Any], str]] = {
    "one mask": (lambda moment: moment.population.masks[0], r"expected a list of 1 masks \(ep.Mask\)"),
    "too many": (lambda moment: moment.population.masks * 2, r"returned 2 Mask; expected a list of 1"),
    "none": (lambda moment: [], r"returned 0 masks; expected a list of 1"),
    "arrays": (lambda moment: [moment.population.masks[0].bits], r"returned 1 ndarray; expected"),
    "another network's": (lambda moment: [ep.Mask(np.ones(4, bool), {"w": (2, 2)})], "does not fit"),
}


@pytest.mark.parametrize("how", WRONG)
def test_other_things_than_masks_are_refused(how: str) -> None:
    problem, (wrong, message) = small(), WRONG[how]

    class Wrong:
        every = None

        def masks_after(self, moment: Moment) -> Any:
            return wrong(moment)

    with pytest.raises(ep.InputError, match=message):
        train(build(problem, "module"), problem, 1, 3, schedule=Wrong())


def regrow(problem: ep.Problem, engine: str = "module", **options: Any) -> Training:
    return Training(engine, 3, schedule=lambda: RigL(problem, 0.9), **options)


def same(one: FinalTraining, other: FinalTraining) -> bool:
    tensors = all(value.equal(other.state[name]) for name, value in one.state.items())
    return tensors and (one.mask, one.history, one.test_loss) == (other.mask, other.history, other.test_loss)


def test_a_training_again_and_a_recorded_one_are_the_same(engine: str) -> None:
    problem = small(epochs=3)
    mask = initial_mask(RigL(problem, 0.9), problem, seed=0)
    once = train_fully(problem, mask, regrow(problem, engine))
    assert same(once, train_fully(problem, mask, regrow(problem, engine)))
    assert same(once, FinalTraining.from_facts(*once.to_facts(), problem))
    assert once.mask.survivors == mask.survivors == round(0.1 * problem.prunable_count)
    assert [row["survivors"] for row in once.history] == [mask.survivors] * 3
    start = train_fully(problem, mask, regrow(problem, engine, epochs=2))
    assert start.history == once.history[:2]


def test_the_engine_changes_as_the_masks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small("Adam", epochs=3)
    mask = initial_mask(RigL(problem, 0.9), problem, seed=0)
    steady = train_fully(problem, mask, regrow(problem))
    names = iter(["sparse", "stacked"])
    monkeypatch.setattr(auto, "choose", lambda *_: next(names))
    changing = train_fully(problem, mask, regrow(problem, free_after=1))
    assert changing.engines == ["module", "sparse", "stacked"]
    assert changing.mask == steady.mask
    for name, tensor in changing.state.items():
        torch.testing.assert_close(tensor, steady.state[name], rtol=1e-9, atol=1e-12)


def test_the_mask_at_the_end_is_trained_from_w0() -> None:
    problem = small(epochs=2)
    mask = initial_mask(RigL(problem, 0.9), problem, seed=0)
    first = train_fully(problem, mask, regrow(problem, epochs=2))
    both = train_from_w0(problem, mask, regrow(problem), restart_seed=8)
    alone = train_fully(problem, first.mask, Training("module", 8))
    assert same(both, alone)
    assert both.search_cost == first.cost(2) > 0


@pytest.fixture
def registered() -> Iterator[str]:
    ep.register.schedule("mine", RigL)
    yield "mine"
    SCHEDULES.forget("mine")


def test_a_schedule_is_registered_and_made_by_its_name(registered: str) -> None:
    problem = small()
    schedule = SCHEDULES.find(registered)(problem, 0.9)
    assert isinstance(schedule, RigL)
    assert initial_mask(schedule, problem, 0).survivors == round(0.1 * problem.prunable_count)
    assert initial_mask(schedule, problem, 0) != initial_mask(schedule, problem, 1)
    dissipating = SCHEDULES["dissipate"](problem, 0.9)
    assert isinstance(dissipating, Dissipating)
    assert initial_mask(dissipating, problem, 0).sparsity == 0
    with pytest.raises(ep.InputError, match=r"unknown schedule 'rigel'.*Did you mean 'rigl'"):
        SCHEDULES.find("rigel")


def test_an_evolution_is_identified_with_the_schedule_it_starts_from(registered: str) -> None:
    options = find_method("evolve").Options(evolution=ep.Evolution(start=(registered, "gmp", "snip")))
    assert find_method("evolve").own(options) == {f"schedule {registered}": RigL}


def test_an_engine_is_registered() -> None:
    class Mine(ENGINES["stacked"].kind):  # type: ignore[misc]
        """As a user would begin."""

    ep.register.engine("mine", Mine)
    try:
        result = ep.train_mask(small(), masks_of(small(), "module")[0], engine="mine")
        assert result.summary["engine"] == "mine"
    finally:
        ENGINES.forget("mine")
    with pytest.raises(ep.InputError, match="an engine is int; expected a class"):
        ep.register.engine("mine", 3)
