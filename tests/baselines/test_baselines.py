import copy
import functools
import math
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.kinds import problem_of
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from evoprune import baselines, seeds
from evoprune.baselines import BASELINES, default_examples, lottery, redrawn, shuffled, top_scores
from evoprune.engines.registry import ENGINES
from evoprune.errors import CollapseWarning, InputError, RunError
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask, survivors_of
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.seeds import batch_order

# at sparsities and on networks that are as small as these; tested below
pytestmark = [
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:.*have a score of zero"),
]

SPARSITIES = [0.0, 0.3, 0.5, 0.8, 0.9, 0.98, 0.999]
LEARNED = sorted(set(BASELINES) - {"dense"})
DRAWN = ["erk", "force", "grasp", "iterative-snip", "random", "snip"]


@pytest.fixture(params=LEARNED)
def name(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["biases", "no-biases"])
def tiny(request):
    """60 examples of 6 numbers in 3 classes, a network 6-5-4-3 in float64."""
    return tiny_problem(request.param)


def tiny_problem(bias, activation=nn.ReLU, **options):
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(60, 6, generator=draws, dtype=torch.float64)
    y = torch.arange(60) % 3
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = [nn.Linear(6, 5, bias), activation(), nn.Linear(5, 4, bias), activation(), nn.Linear(4, 3, bias)]
    data = Data(train=(x, y), validation=(x[:9], y[:9]), test=(x[:9], y[:9]))
    return Problem(nn.Sequential(*layers), data, **{"recipe": Recipe(epochs=3, batch_size=16), "dtype": "float64"} | options)


def batchnorm_and_dropout(**options):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
        )
    return Problem(network, "digits", recipe=Recipe(epochs=1), **options)


def w0(problem):
    return torch.cat([problem.network().state_dict()[name].flatten() for name in problem.shapes])


def largest(scores, count):
    """The mask by plain sorting; of equal scores the earlier."""
    kept = np.zeros(len(scores), bool)
    kept[sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:count]] = True
    return kept


def assert_follows(scores, problem, prune):
    """The masks at all numbers of survivors are those of the scores."""
    n = problem.prunable_count
    for count in range(1, n + 1):
        mask = prune(sparsity=1 - count / n)
        assert mask.survivors == count
        assert np.array_equal(mask.bits, largest(scores, count)), count


# Every baseline


@pytest.mark.sampled(9)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_survivors_are_exact_and_the_mask_fits(name, sparsity, digits):
    mask = BASELINES[name].prune(digits, sparsity=sparsity, seed=1)
    assert mask.survivors == survivors_of(sparsity, digits.prunable_count)
    mask.require(digits.shapes)


@pytest.mark.sampled(3)
def test_the_same_seed_gives_the_same_mask(name, digits):
    def prune(seed):
        return BASELINES[name].prune(digits, sparsity=0.9, seed=seed)

    torch.manual_seed(11)
    first = prune(4)
    torch.manual_seed(12)
    assert prune(4) == first
    assert prune(digits.seed) == prune(None)
    assert (prune(5) != first) == (name in DRAWN or name.startswith("lottery-ticket"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", [None, batchnorm_and_dropout], ids=["mlp", "dropout"])
def test_problem_and_global_states_stay_as_they_were(name, make, digits):
    problem = make() if make else digits
    problem_hash, state, threads = problem.hash, problem.network().state_dict(), torch.get_num_threads()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = BASELINES[name].prune(problem, sparsity=0.9, seed=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == threads
    assert problem.hash == problem_hash
    assert all(torch.equal(tensor, state[key]) for key, tensor in problem.network().state_dict().items())
    assert BASELINES[name].prune(problem, sparsity=0.9, seed=2) == first


def test_sparsity_out_of_range_is_refused(name, digits):
    with pytest.raises(InputError, match="fraction of weights to remove"):
        BASELINES[name].prune(digits, sparsity=1.0)


@pytest.fixture(scope="module")
def lenet():
    return Problem("lenet-300-100", "digits", recipe=Recipe(epochs=2), seed=0)


def test_what_a_mask_of_very_few_weights_cuts_off_is_reported(name, lenet):
    mask = BASELINES[name].prune(lenet, sparsity=0.999, seed=0)
    assert mask.survivors == 50
    reached = np.ones(64, bool)
    for layer in mask.layers.values():
        reached = layer @ reached
    collapse = mask.collapse(lenet)
    assert collapse.unreached_outputs == tuple(np.flatnonzero(~reached))
    assert collapse.empty_layers == tuple(key for key, layer in mask.layers.items() if not layer.any())


def test_dense_keeps_everything(digits):
    assert BASELINES["dense"].prune(digits, sparsity=0.9, seed=1).bits.all()
    assert baselines.dense(digits).survivors == digits.prunable_count


def test_the_registry_has_the_documented_names_and_costs(digits):
    assert list(BASELINES) == ["random", "erk", "magnitude", "snip", "iterative-snip", "force", "grasp", "synflow",
                               "lottery-ticket", "lottery-ticket-5", "dense"]  # fmt: skip
    n = len(digits.data.train[0])
    costs = {name: baseline.search_epochs(digits, 3) for name, baseline in BASELINES.items()}
    assert costs == {
        "random": 0, "erk": 0, "magnitude": 0, "dense": 0,
        "iterative-snip": 3000 / n, "force": 3000 / n,
        "snip": 100 / n, "grasp": 200 / n, "synflow": 100 / n, "lottery-ticket": 3, "lottery-ticket-5": 15,
    }  # fmt: skip
    # five rounds at densities 1, 0.2, 0.04, ... of a sparsity whose fifth power they are
    rounds = BASELINES["lottery-ticket-5"].search_cost(digits, 1 - 0.2**5, 3)
    assert rounds == pytest.approx(3 * (1 + 0.2 + 0.04 + 0.008 + 0.0016))
    assert BASELINES["lottery-ticket"].search_cost(digits, 0.9, 3) == 3


# Each against its published formula


@pytest.mark.parametrize(("prune", "densities"), [(baselines.random, "uniform"), (baselines.erk, "erk")])
def test_random_masks_are_those_of_the_masks_stream(prune, densities, digits):
    for seed in (None, 7):
        rng = seeds.generator(digits.seed if seed is None else seed, "masks")
        assert prune(digits, sparsity=0.9, seed=seed) == random_mask(digits.shapes, 0.9, rng, densities)


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


def trained_plainly(problem, mask=None):
    """W after the whole recipe, with nothing but torch."""
    x, y = problem.part("train")
    network = problem.network()
    optimizer = problem.recipe.make_optimizer(list(network.parameters()))
    steps = math.ceil(len(x) / problem.recipe.batch_size)
    order = seeds.integer(problem.seed, "order")
    named = dict(network.named_parameters())

    def remove():
        for name, layer in {} if mask is None else mask.layers.items():
            named[name].data *= torch.from_numpy(layer)

    remove()
    for epoch in range(problem.recipe.epochs):
        for step, rows in enumerate(batch_order(len(x), problem.recipe.batch_size, order, epoch, x.device)):
            optimizer.param_groups[0]["lr"] = problem.recipe.learning_rate(epoch * steps + step, steps)
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            remove()
    return torch.cat([named[name].detach().flatten() for name in problem.shapes])


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_lottery_ticket_is_the_largest_trained_weights(tiny, engine):
    trained = trained_plainly(tiny).abs()
    for sparsity in SPARSITIES[:-1]:
        kept = torch.zeros(len(trained), dtype=torch.bool)
        kept[trained.topk(survivors_of(sparsity, len(trained))).indices] = True
        mask = baselines.lottery_ticket(tiny, sparsity=sparsity, engine=engine)
        assert np.array_equal(mask.bits, kept.numpy())


def test_an_iterative_ticket_rewinds_and_prunes_by_the_same_factor(tiny):
    n = tiny.prunable_count
    densities = [0.2 ** (1 / 3), 0.2 ** (2 / 3), 0.2]
    mask = baselines.dense(tiny)
    for density in densities:
        trained = trained_plainly(tiny, mask).abs()
        kept = np.zeros(n, bool)
        kept[trained.topk(round(density * n)).indices] = True
        assert not (kept & ~mask.bits).any()
        mask = type(mask)(kept, tiny.shapes)
    assert baselines.lottery_ticket(tiny, sparsity=0.8, rounds=3) == mask


def test_masks_of_more_rounds_are_nested(digits):
    # the first of two rounds to density 0.2 ** 2 is the only one to 0.2
    coarse = baselines.lottery_ticket(digits, sparsity=0.8)
    fine = baselines.lottery_ticket(digits, sparsity=1 - 0.2**2, rounds=2)
    assert fine.survivors < coarse.survivors
    assert not (fine.bits & ~coarse.bits).any()


def test_a_survivor_trained_to_zero_outranks_what_was_removed(monkeypatch):
    problem = Problem("mlp", "digits", widths=(2,), recipe=Recipe(epochs=1))
    rounds = []

    def fake_training(population, *_):  # none in the first round, and nearly all to zero in the second
        rounds.append(1)
        for weight in population.weights if len(rounds) == 2 else ():
            weight.data.view(-1)[3:] = 0

    monkeypatch.setattr(lottery, "train", fake_training)
    mask = baselines.lottery_ticket(problem, sparsity=0.75, rounds=2)
    assert len(rounds) == 2
    assert mask.survivors == 37
    assert not (mask.bits & ~baselines.magnitude(problem, sparsity=0.5).bits).any()


def test_a_ticket_tells_of_each_epoch(digits):
    epochs = []
    baselines.lottery_ticket(digits, sparsity=0.9, rounds=2, on_epoch=lambda: epochs.append(1))
    assert len(epochs) == 2 * digits.recipe.epochs


# The examples that SNIP and GraSP see


@pytest.mark.parametrize("prune", [baselines.snip, baselines.grasp])
def test_examples_are_drawn_ten_a_class(prune, digits, monkeypatch):
    seen = []
    loss = F.cross_entropy
    monkeypatch.setattr(digits, "_loss", lambda outputs, target: seen.append(target) or loss(outputs, target))
    prune(digits, sparsity=0.9)
    prune(digits, sparsity=0.9, seed=3)
    prune(digits, sparsity=0.9, examples=25)
    assert [len(target) for target in seen] == [100, 100, 25]
    assert [torch.bincount(target, minlength=10).tolist() for target in seen[:2]] == [[10] * 10] * 2
    assert not torch.equal(seen[0], seen[1])
    assert set(torch.bincount(seen[2], minlength=10).tolist()) == {2, 3}


def test_examples_without_classes_are_a_hundred_or_all():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    assert default_examples(Problem(nn.Linear(6, 6), Data(train=(x, x)))) == 100
    few = Problem(nn.Linear(6, 6), Data(train=(x[:50], x[:50])))
    assert default_examples(few) == len(few.data.train[0]) == 35
    assert baselines.snip(few, sparsity=0.5) == baselines.snip(few, sparsity=0.5, examples=35)


@pytest.mark.parametrize("prune", [baselines.snip, baselines.grasp])
@pytest.mark.parametrize("examples", [0, -1, 61, 2.0, True])
def test_examples_out_of_range_are_refused(prune, examples):
    with pytest.raises(InputError, match="from 1 to the 60 training examples"):
        prune(tiny_problem(True), sparsity=0.5, examples=examples)


def test_other_values_out_of_range_are_refused(digits):
    for value in (0, 1.5, True):
        with pytest.raises(InputError, match=r"iterations is .* positive integer"):
            baselines.synflow(digits, sparsity=0.5, iterations=value)
        with pytest.raises(InputError, match=r"rounds is .* positive integer"):
            baselines.lottery_ticket(digits, sparsity=0.5, rounds=value)
        with pytest.raises(InputError, match=r"threads is .* positive integer"):
            baselines.lottery_ticket(digits, sparsity=0.5, threads=value)
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"temperature is .* positive number"):
            baselines.grasp(digits, sparsity=0.5, temperature=value)
    with pytest.raises(InputError, match="Did you mean 'module'"):
        baselines.lottery_ticket(digits, sparsity=0.5, engine="modul")
    with pytest.raises(InputError, match="seed is -1"):
        baselines.snip(digits, sparsity=0.5, seed=-1)


def test_a_training_that_diverges_is_said():
    problem = tiny_problem(True, recipe=Recipe(epochs=3, lr=1e12, batch_size=16))
    with pytest.raises(RunError, match=r"NaN or infinite.*lower the recipe's lr"):
        baselines.lottery_ticket(problem, sparsity=0.5)


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


# Sanity checks


def test_a_shuffled_mask_keeps_its_layer_counts(digits):
    mask = baselines.snip(digits, sparsity=0.9)
    before = mask.bits.copy()
    other = shuffled(mask, 0)
    assert {name: layer.sum() for name, layer in other.layers.items()} == {n: layer.sum() for n, layer in mask.layers.items()}
    other.require(digits.shapes)
    assert all(not np.array_equal(layer, mask.layers[name]) for name, layer in other.layers.items())
    assert shuffled(mask, 0) == other == shuffled(mask, seeds.generator(0, "variation"))
    assert shuffled(mask, 1) != other
    assert np.array_equal(mask.bits, before)


def test_shuffling_is_uniform():
    rng = np.random.default_rng(0)
    mask = random_mask({"a": (4, 5), "b": (3, 2)}, 0.5, rng, "uniform")
    chances = np.mean([shuffled(mask, rng).bits for _ in range(1000)], axis=0)
    assert np.abs(chances - 0.5).max() < 0.08  # five standard deviations


def fresh_network():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def halved(outputs, target):
    return F.cross_entropy(outputs, target) / 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", {"data": "digits", "widths": (7,), "w0_density": 0.1, "exclude": ["fc2"]}),
        ("autoencoder", {"data": "digits", "initialization": "xavier", "normalize": False}),
        (fresh_network(), {"loss": halved, "dtype": "float64"}),
        (fresh_network(), {"initialization": "kaiming", "w0_density": {"0.weight": 0.5}}),
        (fresh_network, {"recipe": Recipe(epochs=2, lr=0.01)}),
    ],
    ids=["mlp", "autoencoder", "module", "module-kaiming", "function"],
)
def test_a_redrawn_problem_differs_in_w0_alone(model, options):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    problem = Problem(model, **{"data": Data(train=(x, torch.arange(60) % 3)), "seed": 3} | options)
    before, state = problem.hash, torch.get_rng_state()
    other = redrawn(problem, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert problem.hash == before != other.hash
    assert other.shapes == problem.shapes
    for part, pair in problem.data.parts().items():
        assert all(torch.equal(a, b) for a, b in zip(pair, other.data.parts()[part], strict=True))
    for attribute in ("recipe", "seed", "loss_name", "_loss", "dtype", "device", "is_classification"):
        assert getattr(other, attribute) == getattr(problem, attribute)
    assert other.options.exclude == problem.options.exclude
    old, new = problem.network().state_dict(), other.network().state_dict()
    for name, shape in problem.shapes.items():
        assert not torch.isclose(old[name], new[name]).any()
        if shape.numel() > 100:  # the same distribution, so scaled for density as before
            assert float(new[name].std()) == pytest.approx(float(old[name].std()), rel=0.15)
    assert redrawn(problem, 8) == other != redrawn(problem, 9)
    assert redrawn(other, 9) == redrawn(problem, 9)


def test_a_redrawn_problem_of_names_is_the_named_problem_of_that_seed():
    problem = Problem("mlp", "digits", widths=(7, 5), seed=3)
    assert torch.equal(w0(redrawn(problem, 4)), w0(Problem("mlp", "digits", widths=(7, 5), seed=4)))


def the_same_network():
    return copy.deepcopy(CONSTANT)


CONSTANT = fresh_network()


@pytest.mark.parametrize(("model", "seed"), [("mlp", 3), (the_same_network, 8)])
def test_redrawing_that_changes_nothing_is_refused(model, seed):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    problem = Problem(model, Data(train=(x, torch.arange(60) % 3)), seed=3)
    with pytest.raises(InputError, match="as before; expected another seed"):
        redrawn(problem, seed)


# top_scores

finite = st.floats(-10, 10, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0])  # with ties


@settings(deadline=None, max_examples=200, database=None)
@given(data=st.data(), scores=arrays.arrays(np.float32, st.integers(1, 40), elements=finite))
def test_top_scores_are_exact_largest_and_stable(data, scores):
    count = data.draw(st.integers(0, len(scores)))
    kept = top_scores(torch.from_numpy(scores), count)
    assert kept.dtype == np.bool_
    assert kept.sum() == count
    assert min(scores[kept], default=math.inf) >= max(scores[~kept], default=-math.inf)
    assert np.array_equal(kept, largest(scores, count))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(RunError, match="1 of 3 scores are NaN or infinite"):
        top_scores(torch.tensor([1.0, bad, 2.0]), 1)


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(InputError, match="expected from 0 to n"):
        top_scores(torch.zeros(3), count)


# Scores that rank nothing


def data_of(x):
    return Data(train=(x, (x.flatten(1)[:, 0] > 0).long()))


def two_layers(zero, inputs=None, middle=nn.ReLU, excluded=(), **options):
    """20 inputs, 16 neurons, 2 outputs; the weights that are named are zero."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=draws) if inputs is None else inputs
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(20, 16), middle(), nn.Linear(16, 2))
    with torch.no_grad():
        for name in zero:
            network.get_parameter(name).zero_()
    data = Data(train=(x, torch.arange(len(x)) % 2))
    return Problem(network, data, recipe=Recipe(epochs=1), exclude=list(excluded), **options)


class Dead(nn.Module):
    def forward(self, x):
        return torch.relu(-1.0 - x.abs())


ALL_ZERO = ("0.weight", "2.weight", "0.bias", "2.bias")
AGAIN = {"iterative-snip", "force"}
SALIENCIES = ["snip", "grasp", "synflow", *AGAIN]
RANKED = sorted(set(LEARNED) - {"random", "erk"})
# Networks in which signal or gradient is cut off; the baselines of which no score can be told from another
NOTHING_RANKED = {
    "zero head": (lambda: two_layers(["2.weight", "2.bias"]), {"snip", "synflow", *AGAIN}, "2.weight are zero"),
    "zero head, excluded": (lambda: two_layers(["2.weight"], excluded=["2"]), {*SALIENCIES}, "2.weight are zero"),
    "zero first layer": (lambda: two_layers(["0.weight", "0.bias"]), {*SALIENCIES}, "0.weight are zero"),
    "zero W0": (lambda: two_layers(ALL_ZERO), set(RANKED), "0.weight, 2.weight are zero"),
    "zero inputs": (lambda: two_layers(["0.bias"], torch.zeros(300, 20)), {"snip", "grasp", *AGAIN}, ""),
    "dead neurons": (lambda: two_layers([], middle=Dead), {*SALIENCIES}, ""),
}  # fmt: skip


@pytest.mark.sampled(18)
@pytest.mark.parametrize("case", NOTHING_RANKED)
@pytest.mark.parametrize("ranked", RANKED)
def test_scores_that_rank_nothing_are_refused(case, ranked):
    make, refused, cause = NOTHING_RANKED[case]
    problem = make()
    if ranked in refused:
        what = ranked.removesuffix("-5").replace("-", "_")
        with pytest.raises(RunError, match=f"scores of {what} are 0; they rank nothing.*{cause}"):
            BASELINES[ranked].prune(problem, sparsity=0.9, seed=0)
        return
    mask = BASELINES[ranked].prune(problem, sparsity=0.9, seed=0)
    assert not np.array_equal(np.flatnonzero(mask.bits), np.arange(mask.survivors))


@pytest.mark.parametrize("ranked", ["magnitude", "synflow"])
def test_scores_that_are_all_equal_are_refused(ranked):
    problem = Problem(nn.Linear(6, 3, bias=False), tiny_problem(True).data)
    with torch.no_grad():
        problem._template.weight.fill_(0.5)
    with pytest.raises(RunError, match=r"all 18 scores of .* are 0.5; they rank nothing"):
        BASELINES[ranked].prune(problem, sparsity=0.5)


@pytest.mark.parametrize("ranked", RANKED)
def test_nothing_need_be_ranked_where_nothing_is_removed(ranked):
    assert BASELINES[ranked].prune(two_layers(ALL_ZERO), sparsity=0.0, seed=0).bits.all()


# Half of the inputs are zero, and so is the half of W0 that they meet: whose scores are zero
HALF = torch.cat([torch.randn(300, 10, generator=torch.Generator().manual_seed(0)), torch.zeros(300, 10)], 1)


def half_dead():
    problem = two_layers([], HALF)
    with torch.no_grad():
        problem._template[0].weight[:, 10:] = 0
    return problem


@pytest.mark.parametrize("ranked", RANKED)
def test_scores_of_zero_that_are_kept_are_said(ranked):
    problem = half_dead()
    kept = problem.prunable_count - 40
    with pytest.warns(UserWarning, match=rf"of the {kept} weights that it keeps \d+ have a score of zero \(.* in 0.weight"):
        mask = BASELINES[ranked].prune(problem, sparsity=40 / problem.prunable_count, seed=0)
    assert mask.survivors == kept
    if ranked == "magnitude":
        with pytest.warns(UserWarning, match=rf"{ranked}: of the {kept} weights that it keeps 120 have .*\(120 in 0.weight\)"):
            BASELINES[ranked].prune(problem, sparsity=40 / problem.prunable_count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", CollapseWarning)
        BASELINES[ranked].prune(problem, sparsity=0.9, seed=0)


# A collapsed mask


@pytest.mark.parametrize("collapsing", LEARNED)
def test_a_mask_that_cuts_off_is_said(collapsing):
    problem = Problem("mlp", "digits", widths=(24, 16), recipe=Recipe(epochs=1))
    for sparsity in (0.3, 0.999):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mask = BASELINES[collapsing].prune(problem, sparsity=sparsity, seed=0)
        expected = [str(mask.collapse(problem))] if mask.collapse(problem) else []
        texts = [str(warning.message) for warning in said if warning.category is CollapseWarning]
        assert [text.split("cuts off: ")[1].split("; lower")[0] for text in texts] == expected
        assert bool(expected) == (sparsity == 0.999)


def test_functions_say_it_like_the_registry(digits):
    with pytest.warns(CollapseWarning, match="the mask of magnitude cuts off: no survivors in"):
        baselines.magnitude(digits, sparsity=0.999)
    with pytest.warns(CollapseWarning, match="the mask of magnitude cuts off: no survivors in"):
        baselines.magnitude(problem=digits, sparsity=0.999)


# Buffers, attention, and networks that cannot be scored


class Attention(nn.Module):
    """Four tokens of five numbers, with a causal mask as a buffer of whichever kind."""

    def __init__(self, kind):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.q, self.k, self.v, self.o = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 2)
        causal = torch.triu(torch.ones(4, 4), 1).bool()
        self.kind = kind
        self.register_buffer("steps", torch.arange(4))  # an integer
        self.register_buffer("mask", {
            "bool": ~causal, "inf": torch.zeros(4, 4).masked_fill(causal, -math.inf), "negative": -1e9 * causal.float(),
        }[kind])  # fmt: skip

    def forward(self, x):
        x = x.view(len(x), 4, 5) + self.steps[:, None]
        a = self.q(x) @ self.k(x).transpose(1, 2)
        a = a.masked_fill(~self.mask, -math.inf) if self.kind == "bool" else a + self.mask
        return self.o((a.softmax(-1) @ self.v(x)).mean(1))


class Fused(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.i, self.o = nn.Linear(5, 8), nn.Linear(8, 2)
            self.e = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=dropout)

    def forward(self, x):
        return self.o(self.e(self.i(x.view(len(x), 4, 5))).mean(1))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.i, self.o = nn.Linear(5, 24), nn.Linear(8, 2)

    def forward(self, x):
        q, k, v = self.i(x.view(len(x), 4, 5)).view(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2).mean(1))


ATTENTION = {
    **{f"{kind} buffer": functools.partial(Attention, kind) for kind in ("bool", "inf", "negative")},
    "transformer": Fused,
    "transformer with dropout": functools.partial(Fused, 0.2),
    "scaled dot product": Scaled,
}


@pytest.mark.sampled(7)
@pytest.mark.filterwarnings("ignore::evoprune.errors.UnprunableWarning")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("saliency", ["snip", "grasp", "synflow"])
def test_attention_is_scored(kind, saliency, dtype):
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    problem = Problem(ATTENTION[kind](), data_of(x), dtype=dtype)
    mask = BASELINES[saliency].prune(problem, sparsity=0.8, seed=0)
    assert mask.survivors == survivors_of(0.8, problem.prunable_count)
    assert BASELINES[saliency].prune(problem, sparsity=0.8, seed=0) == mask


def test_synflow_leaves_buffers_as_they_are():
    """The masked weights' absolute values under the mask as it is, by hand."""
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    problem = Problem(Attention("inf"), data_of(x), dtype="float64")
    network = problem.network().eval()
    for parameter in network.parameters():
        parameter.data.abs_()
    assert network.mask.min() == -math.inf
    network(torch.ones(1, 20, dtype=torch.float64)).sum().backward()
    scores = torch.cat([(w.detach() * w.grad).flatten() for w in map(network.get_parameter, problem.shapes)])
    mask = baselines.synflow(problem, sparsity=0.5, iterations=1)
    assert np.array_equal(mask.bits, largest(scores, mask.survivors))


def test_synflow_sends_a_one_through_every_row_of_an_embedding():
    """An embedding is a linear layer on one-hot words, so an input of ones gives each position the sum of the rows."""
    problem = problem_of("embedding")
    network = problem.network()
    table, hidden, last = (network.get_parameter(name).detach().abs() for name in problem.shapes)
    for parameter in network.parameters():
        parameter.data.abs_()
    inside = table.sum(0) @ hidden.T + network.hidden.bias.detach()
    flow = last.sum(0) @ hidden  # of all outputs, into each of the embedding's columns
    expected = torch.cat([
        (table * flow).flatten(), (hidden * table.sum(0) * last.sum(0)[:, None]).flatten(), (last * inside).flatten()
    ])  # fmt: skip
    mask = baselines.synflow(problem, sparsity=0.5, iterations=1)
    assert np.array_equal(mask.bits, largest(expected, mask.survivors))
    assert mask.layers["table.weight"].any(1).sum() > 1


def test_synflow_brings_nothing_back_where_scores_are_negative():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            return 100 * (self.a(x) - 3 * self.b(x))

    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    problem = Problem(Difference(), Data(train=(x, torch.arange(100) % 5)))
    few = baselines.synflow(problem, sparsity=0.8, iterations=20)
    many = baselines.synflow(problem, sparsity=0.2, iterations=20)
    assert few.survivors == 12
    assert not (few.bits & ~many.bits).any()
    assert not few.layers["b.weight"].any()


class Odd(nn.Module):
    """Serves training, and not what a baseline does."""

    def __init__(self, kind):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layer = nn.Linear(20, 2)
        self.kind = kind
        self.scale = torch.ones(20)  # no buffer, which stays of its type

    def forward(self, x):
        if self.kind == "once differentiable":
            q = self.layer(x)[:, None, None]
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, q, q).flatten(1)
        if self.kind == "one type":
            return self.layer(torch.mv(x, self.scale)[:, None] + x)
        if len(x) == 1 and bool((x == 1).all()):
            raise ValueError("inputs of ones")
        return self.layer(x)


@pytest.mark.parametrize(
    ("kind", "saliency", "cause"),
    [
        ("once differentiable", "grasp", "(NotImplemented|Runtime)Error: .*derivative for aten::.*flash_attention"),
        ("one type", "synflow", "RuntimeError: .*dtype"),
        ("ones", "synflow", "ValueError: inputs of ones"),
    ],
)
def test_a_network_that_cannot_be_scored_is_named_with_the_cause(kind, saliency, cause):
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    problem = Problem(Odd(kind), data_of(x))
    with pytest.raises(RunError, match=f"{saliency} cannot score this network: {cause}"):
        BASELINES[saliency].prune(problem, sparsity=0.5)
