"""Snapshots in the middle of a training, and networks that continue from them."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support.engines import group, masks_of
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.engines.snapshot import Begun, begin, take_snapshots
from evoprune.masks.mask import Mask
from evoprune.masks.snapshot import Snapshot
from evoprune.training.loop import Trained, train

OPTIMIZERS = ["SGD", "Adam", "AdamW"]


def problem_of(optimizer: str = "SGD", dtype: str = "float64", model: object = "mlp") -> ep.Problem:
    recipe = ep.Recipe(epochs=2, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 0.005)
    more = {"widths": (20, 10)} if model == "mlp" else {}
    return ep.Problem(model, "digits", recipe, dtype=dtype, **more)


def first_epoch(problem: ep.Problem, engine: str, masks: Sequence[Mask]) -> tuple[Trained, list[Snapshot]]:
    done = train(ENGINES[engine].build(problem, masks), problem, 1, 0)
    return done, take_snapshots(done.population, done.optimizer, 1, [[] for _ in masks])


def states(trained: Trained) -> list[dict[str, Tensor]]:
    return [trained.population.state(k) for k in range(trained.population.size)]


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize("model", ["mlp", normalised], ids=["perceptron", "normalised"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_halves_are_the_whole(engine: str, optimizer: str, model: object) -> None:
    problem = problem_of(optimizer, "float32", model)
    masks = group(engine, masks_of(problem, 2))
    _, snapshots = first_epoch(problem, engine, masks)
    continued = train(begin(ENGINES[engine], problem, masks, snapshots), problem, 1, 0)
    whole = train(ENGINES[engine].build(problem, masks), problem, 2, 0)
    for a, b in zip(states(continued), states(whole), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert np.array_equal(continued.epoch_costs[0], whole.epoch_costs[1])
    assert all(torch.equal(a, b) for a, b in zip(continued.gradients, whole.gradients, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_another_mask_is_as_a_mask_that_changes(engine: str, optimizer: str) -> None:
    problem, rng = problem_of(optimizer), np.random.default_rng(7)
    masks = group(engine, masks_of(problem, 2))
    others = [ep.random_mask(problem.shapes, sparsity, rng, "varied") for sparsity in (0.7, 0.9)][: len(masks)]
    done, snapshots = first_epoch(problem, engine, masks)
    before = states(done)
    begun = begin(ENGINES[engine], problem, others, snapshots)
    for k, (was, now) in enumerate(zip(masks, others, strict=True)):
        state = begun.population.state(k)
        for name, layer in now.layers.items():
            both, grown = (torch.from_numpy(layer & bits) for bits in (was.layers[name], ~was.layers[name]))
            assert torch.equal(state[name][both], before[k][name][both])
            assert grown.any()
            assert not state[name][grown].any()
            assert not state[name][torch.from_numpy(~layer)].any()
    done.population.set_masks(others, done.optimizer)
    expected = train(Begun(done.population, 1, done.optimizer), problem, 1, 0)
    for a, b in zip(states(train(begun, problem, 1, 0)), states(expected), strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_another_engine_continues(engine: str, optimizer: str) -> None:
    problem = problem_of(optimizer)
    masks = masks_of(problem, 1)
    _, snapshots = first_epoch(problem, "module", masks)
    (found,) = states(train(begin(ENGINES[engine], problem, masks, snapshots), problem, 1, 0))
    (expected,) = states(train(ENGINES["module"].build(problem, masks), problem, 2, 0))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


def test_only_survivors_are_packed(digits: ep.Problem) -> None:
    mask = ep.random_mask(digits.shapes, 0.98, np.random.default_rng(0))
    _, (snapshot,) = first_epoch(digits, "sparse", [mask])
    numbers = sum(tensor.numel() for tensor in snapshot.tensors.values() if tensor.is_floating_point())
    biases = 24 + 16 + 10
    assert numbers == 2 * (mask.survivors + biases)  # weights and momentum
    assert snapshot.tensors["bits"].numel() == -(-len(mask) // 8)


def test_the_digest_is_of_all_that_counts(digits: ep.Problem) -> None:
    _, (snapshot,) = first_epoch(digits, "sparse", masks_of(digits, 1))
    assert pickle.loads(pickle.dumps(snapshot)).digest == Snapshot(**snapshot.fields).digest == snapshot.digest
    assert Snapshot(**snapshot.fields | {"history": [{"epoch": 1.0}]}).digest == snapshot.digest
    assert Snapshot(**snapshot.fields | {"epochs": 2}).digest != snapshot.digest
    assert len(snapshot.tensors) == 1 + 2 * len(list(digits.network().parameters()))
    for name, tensor in snapshot.tensors.items():
        other = tensor.clone().reshape(-1)
        other[-1] += 1
        tensors = {**snapshot.tensors, name: other.reshape(tensor.shape)}
        assert Snapshot(**snapshot.fields | {"tensors": tensors}).digest != snapshot.digest


def test_there_must_be_one_for_each_mask(digits: ep.Problem) -> None:
    masks = masks_of(digits, 2)
    _, (first, second) = first_epoch(digits, "sparse", masks)
    for snapshots in ([first], [first, Snapshot(**second.fields | {"epochs": 2})]):
        with pytest.raises(ep.InputError, match="expected one for each, all after as many epochs"):
            begin(ENGINES["sparse"], digits, masks, snapshots)


def test_memory_of_another_shape_is_kept_whole() -> None:
    problem = ep.Problem("mlp", "digits", ep.Recipe(epochs=2, optimizer="Adafactor", lr=0.01), widths=(20, 10))
    masks = masks_of(problem, 1)
    _, snapshots = first_epoch(problem, "module", masks)
    (continued,) = states(train(begin(ENGINES["module"], problem, masks, snapshots), problem, 1, 0))
    (whole,) = states(train(ENGINES["module"].build(problem, masks), problem, 2, 0))
    assert all(torch.equal(continued[name], whole[name]) for name in whole)


def test_one_of_another_network_is_refused(digits: ep.Problem) -> None:
    mask = masks_of(digits, 1)[0]
    _, (snapshot,) = first_epoch(digits, "module", [mask])
    fields = snapshot.fields | {"mask": "another"}
    with pytest.raises(ep.InputError, match="a snapshot is of another network"):
        begin(ENGINES["module"], digits, [mask], [Snapshot(**fields)])
