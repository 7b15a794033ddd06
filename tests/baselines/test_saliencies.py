"""Saliencies against a direct computation of the published formulas."""

from functools import partial

import numpy as np
import pytest
import torch
from support.baselines import largest, tiny_problem, w0
from torch import nn
from torch.nn import functional as F

from evoprune import baselines
from evoprune.baselines import BASELINES
from evoprune.masks.mask import Mask
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem

# at sparsities and on networks that are as small as these; tested below
pytestmark = [
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:.*have a score of zero"),
]


def assert_follows(scores, problem, prune):
    """The masks at all numbers of survivors are those of the scores."""
    n = problem.prunable_count
    for count in range(1, n + 1):
        mask = prune(sparsity=1 - count / n)
        assert mask.survivors == count
        assert np.array_equal(mask.bits, largest(scores, count)), count


def test_magnitude_sorts_w0(tiny):
    assert_follows(w0(tiny).abs(), tiny, partial(baselines.magnitude, tiny))


def test_snip_is_the_derivative_by_multiplicative_masks(tiny):
    """|dL/dc| / sum |dL/dc| at c = 1."""
    x, y = tiny.part("train")
    network = tiny.network()
    masks = {name: torch.ones_like(w, requires_grad=True) for name, w in network.named_parameters() if name in tiny.shapes}
    masked = {name: w.detach() * masks.get(name, 1) for name, w in network.named_parameters()}
    F.cross_entropy(torch.func.functional_call(network, masked, (x,)), y).backward()
    scores = torch.cat([c.grad.abs().flatten() for c in masks.values()])
    scores /= scores.sum()
    assert_follows(scores, tiny, partial(baselines.snip, tiny, examples=60))


def direct_snip(problem, mask):
    """|w0 * dL/dw| at the weights that a mask leaves."""
    x, y = problem.part("train")
    network = problem.network()
    initial = {name: network.get_parameter(name).detach().clone() for name in problem.shapes}
    with torch.no_grad():
        for name, layer in mask.layers.items():
            network.get_parameter(name).mul_(torch.from_numpy(layer))
    F.cross_entropy(network(x), y).backward()
    return torch.cat([(network.get_parameter(name).grad * w).abs().flatten() for name, w in initial.items()])


@pytest.mark.parametrize("name", ["iterative_snip", "force"])
def test_iterative_pruning_ranks_again_on_the_network_that_is_left(name, tiny):
    """De Jorge et al. 2021: k_t = n (k / n)^(t / T); pruned weights come back in FORCE alone."""
    n, sparsity, steps = tiny.prunable_count, 0.8, 4
    mask = baselines.dense(tiny)
    for step in range(1, steps + 1):
        scores = direct_snip(tiny, mask)
        if name == "iterative_snip":
            scores = torch.where(torch.from_numpy(mask.bits), scores, -1.0)
        count = round(n * (1 - sparsity) ** (step / steps))
        bits = np.zeros(n, bool)
        bits[torch.topk(scores, count).indices.numpy()] = True
        mask = Mask(bits, tiny.shapes)
    prune = getattr(baselines, name)
    assert prune(tiny, sparsity=sparsity, iterations=steps, examples=60) == mask
    assert prune(tiny, sparsity=sparsity, iterations=1, examples=60) == baselines.snip(tiny, sparsity=sparsity, examples=60)


def direct_grasp(problem, loss):
    """w * (H g) with the whole Hessian: its negative is S(-w) of the paper, of which the largest are removed."""
    network = problem.network()
    parameters = {name: w.detach() for name, w in network.named_parameters()}

    def flat_loss(flat):
        parts = flat.split([shape.numel() for shape in problem.shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(problem.shapes.items(), parts, strict=True)}
        return loss(torch.func.functional_call(network, parameters | weights, (problem.part("train")[0],)))

    w = w0(problem)
    hessian = torch.autograd.functional.hessian(flat_loss, w)
    return w * (hessian @ torch.autograd.functional.jacobian(flat_loss, w))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [None, 3.0])
def test_grasp_is_hessian_times_gradient(activation, bias, temperature):
    problem = tiny_problem(bias, activation)
    y = problem.data.train[1]
    scores = direct_grasp(problem, lambda outputs: F.cross_entropy(outputs / (temperature or 200), y))
    assert (scores < 0).any()
    assert_follows(scores, problem, partial(baselines.grasp, problem, examples=60, temperature=temperature))


def test_grasp_divides_no_outputs_of_another_loss():
    problem = Problem(nn.Linear(6, 6), Data(train=(torch.randn(50, 6),) * 2), loss="reconstruction", dtype="float64")
    x, target = problem.part("train")
    scores = direct_grasp(problem, lambda outputs: F.mse_loss(outputs, target))
    assert_follows(scores, problem, partial(baselines.grasp, problem, examples=len(x)))


def test_grasp_removes_what_lowers_the_gradient_least():
    """To first order w * (H g) is half of what |g|^2 loses when w is removed; seen by removing a small part of each."""
    problem = tiny_problem(True, nn.Tanh)
    x, y = problem.part("train")

    def flow(index, part):
        network = problem.network()
        weights = [network.get_parameter(name) for name in problem.shapes]
        with torch.no_grad():
            weights[0].view(-1)[index] *= 1 - part
        gradients = torch.autograd.grad(F.cross_entropy(network(x) / 200, y), weights)
        return float(sum((g * g).sum() for g in gradients))

    lost = np.array([flow(i, -1e-4) - flow(i, 1e-4) for i in range(30)])
    best = int(lost.argmax())
    worst = int(lost.argmin())
    assert lost[worst] < 0 < lost[best]
    mask = baselines.grasp(problem, sparsity=0.5, examples=60)
    assert mask.bits[best]
    assert not mask.bits[worst]


@pytest.mark.parametrize("iterations", [1, 2, 7, 100])
def test_synflow_is_a_product_of_absolute_weights(tiny, iterations):
    """Forward sums times backward sums times |w|, iterated; without biases R = 1' |W3| |W2| |W1| 1."""
    state = tiny.network().state_dict()
    weights = [state[name].abs().numpy() for name in tiny.shapes]
    biases = [state[name.replace("weight", "bias")].abs().numpy() if "0.bias" in state else 0.0 for name in tiny.shapes]
    n = tiny.prunable_count
    for sparsity in (0.3, 0.6, 0.9):
        kept = np.ones(n, bool)
        for step in range(1, iterations + 1):
            layers = np.split(kept, np.cumsum([w.size for w in weights])[:-1])
            masked = [w * layer.reshape(w.shape) for w, layer in zip(weights, layers, strict=True)]
            forward, backward = [np.ones(6)], [np.ones(3)]
            for w, b in zip(masked, biases, strict=True):
                forward.append(w @ forward[-1] + b)
            for w in reversed(masked):
                backward.append(w.T @ backward[-1])
            scores = [np.outer(backward[2 - i], forward[i]) * w for i, w in enumerate(masked)]
            flat = np.where(kept, np.concatenate([s.ravel() for s in scores]), -1)
            kept = largest(flat, round((1 - sparsity) ** (step / iterations) * n))
        mask = baselines.synflow(tiny, sparsity=sparsity, iterations=iterations)
        assert np.array_equal(mask.bits, kept)


def test_synflow_leaves_no_layer_empty(lenet):
    # the paper's theorem 3: a layer's flow is conserved, so a layer with few weights left has large scores
    layers = baselines.synflow(lenet, sparsity=0.999).layers
    assert all(layer.any() for layer in layers.values())


def test_synflow_survives_scales_that_overflow_single_precision():
    def deep(scale):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(12)])
        with torch.no_grad():
            for layer in network:
                layer.weight.mul_(scale)
        return network

    assert not deep(2.0**14)(torch.ones(1, 8)).isfinite().all()
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 1e-30
    masks = [
        baselines.synflow(Problem(deep(scale), Data(train=(x, torch.arange(50) % 8))), sparsity=0.9) for scale in (2.0**14, 1)
    ]
    assert masks[0] == masks[1]


def test_frozen_and_unused_weights_are_scored():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)
            self.used.weight.requires_grad_(False)

        def forward(self, x):
            return self.used(x)

    problem = Problem(Odd(), tiny_problem(True).data, initialization="kaiming")
    for name in ("snip", "grasp", "synflow"):
        mask = BASELINES[name].prune(problem, sparsity=0.75)
        assert mask.layers["used.weight"].sum() == mask.survivors == 9, name
