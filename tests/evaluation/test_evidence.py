"""Evidence against what one computes directly."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.evidence import take_evidence
from evoprune.masks.random import random_mask
from evoprune.operators import informed
from evoprune.training.gradient import dense_gradient
from evoprune.training.loop import train

SEED = 11


def trained(problem, engine, density=0.4, epochs=1):
    """A population of as many masks as the engine takes, at most three, after brief training."""
    rng = np.random.default_rng(0)
    masks = [random_mask(problem.shapes, 1 - density, rng) for _ in range(ENGINES[engine].capacity or 3)]
    population = ENGINES[engine].build(problem, masks)
    train(population, problem, epochs, SEED)
    return population


def flat(problem, state):
    return np.concatenate([state[name].detach().cpu().numpy().reshape(-1) for name in problem.shapes])


def ranked(positions, key):
    """Positions in the order of a key, then of their own."""
    return sorted(positions.tolist(), key=lambda position: (key[position], position))


def direct_gradient(problem, state, batch):
    network = problem.network()
    network.load_state_dict(state)
    network.eval()
    x, target = problem.part("train")
    rows = torch.from_numpy(np.random.default_rng([SEED, 0]).permutation(len(x))[:batch])
    problem.loss(network(x[rows]), target[rows]).backward()
    return np.abs(flat(problem, {name: p.grad for name, p in network.named_parameters() if name in problem.shapes}))


@pytest.mark.parametrize("fraction", [0.001, 0.1, 1.0])
def test_evidence_is_what_one_computes_directly(digits, engine, fraction):
    population = trained(digits, engine)
    for k, mask in enumerate(population.masks):
        evidence = take_evidence(digits, population, k, seed=SEED, fraction=fraction, batch=64)
        survivors, removed = np.flatnonzero(mask.bits), np.flatnonzero(~mask.bits)
        few = min(max(1, round(fraction * len(survivors))), len(removed))
        moved = np.abs(flat(digits, population.state(k)).astype(np.float64) - digits.w0)
        gradient = direct_gradient(digits, population.state(k), 64)
        assert evidence.mask == mask.hash
        assert evidence.still.dtype == evidence.grow.dtype == np.int32
        assert evidence.still.tolist() == ranked(survivors, moved)[:few]
        assert evidence.grow[:few].tolist() == ranked(removed, -gradient)[:few]
        assert evidence.grow.tolist() == ranked(evidence.grow, -gradient)
        assert not mask.bits[evidence.grow].any()
        assert len(set(evidence.grow.tolist())) == len(evidence.grow) <= 2 * few


def test_evidence_serves_growth_within_layers(digits, engine):
    population = trained(digits, engine)
    mask = copy.deepcopy(population.masks[0])
    mask.evidence = take_evidence(digits, population, 0, seed=SEED, fraction=0.2)
    gradient = dense_gradient(digits, population.state(0), SEED, 500)
    moved = np.abs(flat(digits, population.state(0)).astype(np.float64) - digits.w0)
    for fraction in (0.02, 0.2):
        child = copy.deepcopy(mask)
        informed(child, rng=np.random.default_rng(0), fraction=fraction, scope="layer")
        out = np.zeros_like(mask.bits)
        out[ranked(np.flatnonzero(mask.bits), moved)[: round(fraction * mask.survivors)]] = True
        ends = np.cumsum([shape.numel() for shape in digits.shapes.values()])
        for start, end in zip([0, *ends], ends, strict=False):
            own = np.arange(start, end)
            room = int((~mask.bits[own]).sum())
            came = ranked(own[~mask.bits[own]], -gradient)[: min(int(out[own].sum()), room)]
            assert np.flatnonzero(child.bits[own] & ~mask.bits[own]).tolist() == sorted(i - start for i in came)
        assert mask.survivors == child.survivors
        assert np.count_nonzero(mask.bits & ~child.bits) > 0


def linear(x, target, w0, recipe=None):
    network = nn.Linear(w0.shape[1], w0.shape[0], bias=False)
    with torch.no_grad():
        network.weight.copy_(w0)
    data = ep.Data(train=(x, target), validation=(x, target), test=(x, target))
    return ep.Problem(network, data, recipe or ep.Recipe(epochs=1), dtype="float64", normalize=False)


def test_evidence_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    problem = linear(x, target, torch.ones(2, 3))
    mask = ep.Mask(np.array([True, False, True, False, True, False]), problem.shapes)
    population = ENGINES["module"].build(problem, [mask])
    with torch.no_grad():
        population.network.weight.copy_(torch.tensor([[1.5, 0.0, 1.1], [0.0, -1.0, 0.0]]))
    evidence = take_evidence(problem, population, 0, seed=SEED, fraction=1.0)
    weight = flat(problem, population.state(0)).reshape(2, 3)
    gradient = 2 * (x.numpy() @ weight.T - target.numpy()).T @ x.numpy() / target.numel()
    assert evidence.still.tolist() == [2, 0, 4]  # moved by 0.1, 0.5 and 2
    assert evidence.grow.tolist() == sorted([1, 3, 5], key=lambda i: -abs(gradient.flat[i]))
    np.testing.assert_allclose(dense_gradient(problem, population.state(0), SEED, 10), np.abs(gradient).ravel())


def test_ties_go_by_index_and_what_is_no_number_comes_last():
    x, target = torch.zeros(4, 3), torch.zeros(4, 2)  # no gradient anywhere
    problem = linear(x, target, torch.ones(2, 3))
    mask = ep.Mask(np.array([True, False, True, False, True, False]), problem.shapes)
    population = ENGINES["module"].build(problem, [mask])
    evidence = take_evidence(problem, population, 0, seed=SEED, fraction=1.0)
    assert evidence.still.tolist() == [0, 2, 4]
    assert evidence.grow.tolist() == [1, 3, 5]
    with torch.no_grad():
        population.network.weight[0, 0] = torch.nan
    assert take_evidence(problem, population, 0, seed=SEED, fraction=1.0).still.tolist() == [2, 4, 0]


@pytest.mark.parametrize("full", [True, False])
def test_a_full_or_an_empty_mask_has_nothing_to_swap(digits, full):
    mask = ep.Mask(np.full(digits.prunable_count, full), digits.shapes)
    population = ENGINES["module"].build(digits, [mask])
    evidence = take_evidence(digits, population, 0, seed=SEED, movement="magnitude")
    assert (len(evidence.still) > 0, len(evidence.grow)) == (full, 0)  # a dense mask can still lose weights


def same(a, b):
    return (a.mask, a.still.tolist(), a.grow.tolist()) == (b.mask, b.still.tolist(), b.grow.tolist())


def test_the_batch_is_the_seeds(digits):
    population = trained(digits, "sparse")
    state = population.state(1)
    first = dense_gradient(digits, state, 1, 32)
    assert np.array_equal(first, dense_gradient(digits, state, 1, 32))
    assert not np.allclose(first, dense_gradient(digits, state, 2, 32))
    assert not np.allclose(first, dense_gradient(digits, state, 1, 64))
    x, _ = digits.part("train")
    # everything, where there are fewer examples than asked for
    whole = dense_gradient(digits, state, 1, len(x) + 5)
    np.testing.assert_allclose(whole, dense_gradient(digits, state, 2, len(x)), atol=1e-6)
    assert len(whole) == digits.prunable_count


def test_evidence_is_taken_in_evaluation_mode_and_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=generator), torch.arange(60) % 3
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    problem = ep.Problem(network, ep.Data(train=(x, y), validation=(x, y), test=(x, y)), ep.Recipe(epochs=2))
    population = trained(problem, "module", 0.5)
    before = population.state(0)
    states = random.getstate(), torch.get_rng_state().tolist()
    evidence = take_evidence(problem, population, 0, seed=SEED, batch=20)
    assert (random.getstate(), torch.get_rng_state().tolist()) == states
    torch.rand(1)
    assert same(evidence, take_evidence(problem, population, 0, seed=SEED, batch=20))
    assert all(torch.equal(tensor, before[name]) for name, tensor in population.state(0).items())
    np.testing.assert_array_equal(dense_gradient(problem, before, SEED, 20), direct_gradient(problem, before, 20))


def test_frozen_weights_have_evidence_too(tensors):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    network[0].weight.requires_grad_(False)
    problem = ep.Problem(network, tensors, ep.Recipe(epochs=1))
    mask = random_mask(problem.shapes, 0.5, np.random.default_rng(0), "uniform")
    gradient = dense_gradient(problem, ENGINES["module"].build(problem, [mask]).state(0), SEED, 50)
    assert (gradient[:30] > 0).any()


@pytest.mark.parametrize(
    "bad",
    [{"fraction": 0.0}, {"fraction": 1.5}, {"batch": 0}, {"batch": 2.5}, {"movement": "fast"}],
    ids=str,
)
def test_what_cannot_be_served_is_refused(digits, bad):
    mask = random_mask(digits.shapes, 0.5, np.random.default_rng(0))
    population = ENGINES["module"].build(digits, [mask])
    with pytest.raises(ep.InputError, match="expected"):
        take_evidence(digits, population, 0, seed=SEED, **bad)


@pytest.mark.parametrize(
    ("lr", "zero", "said"),
    [
        (1e-30, (), "the absolute scores of survivors are all equal"),
        # no signal reaches the second layer, and no gradient comes back through it
        (0.1, ("fc1.weight", "fc1.bias", "fc2.weight"), "the dense gradients of removed weights are all equal"),
    ],
)
def test_evidence_that_ranks_nothing_is_said(lr, zero, said):
    problem = ep.Problem(model="mlp", widths=(12,), data="digits", recipe=ep.Recipe(epochs=1, lr=lr))
    population = trained(problem, "module")
    for name in zero:
        population.network.get_parameter(name).data.zero_()
    with pytest.warns(UserWarning, match=said):
        take_evidence(problem, population, 0, seed=SEED)
