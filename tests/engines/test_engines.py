"""Engines against the reference engine, ``module``; whatever is registered is tested."""

import itertools
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import torch
from support.engines import group, masks_of, terms, trained
from support.models import NARROW
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines.check import require
from evoprune.engines.module import ModulePopulation
from evoprune.engines.registry import ENGINES
from evoprune.engines.sparse.population import SparsePopulation
from evoprune.evaluation.terms import BUILT_IN_TERMS, survivor_sums
from evoprune.problem.models import MODELS
from evoprune.problem.optimizers import optimizers
from evoprune.training.loop import train
from evoprune.training.measure import measure

POPULATIONS = sorted(name for name, engine in ENGINES.items() if engine.capacity is None)
NAMES = sorted(set(MODELS) - set(NARROW))  # the others take one step in test_named_networks.py
CONVOLUTIONAL = [name for name in NAMES if name.startswith(("conv", "resnet"))]
WIDTHS = {"mlp": (40, 30), "autoencoder": (30, 10)} | {name: (8,) if "conv" in name else (4,) for name in CONVOLUTIONAL}
SERVED = list(itertools.product(POPULATIONS, NAMES))


def test_an_untrained_population_computes_the_masked_network(digits: ep.Problem, engine: str) -> None:
    masks = group(engine, masks_of(digits, 3))
    population = ENGINES[engine].build(digits, masks)
    x = digits.data.validation[0][:5]
    outputs = population(x)
    for k, mask in enumerate(masks):
        network = digits.network()
        with torch.no_grad():
            for name, layer in mask.layers.items():
                network.get_parameter(name).mul_(torch.from_numpy(layer))
        torch.testing.assert_close(outputs[k], network(x))


@pytest.mark.parametrize("optimizer", sorted(optimizers()))
def test_removed_weights_are_exactly_zero_after_training(digits: ep.Problem, engine: str, optimizer: str) -> None:
    momentum = 0.9 if optimizer in ("SGD", "RMSprop") else None
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, momentum=momentum, lr=0.01, weight_decay=0.01 * (optimizer != "Rprop"))
    if optimizer == "Muon":
        with pytest.raises(ep.InputError, match="2D"):
            ep.Problem(model="mlp", widths=(24, 16), recipe=recipe)
        return
    problem = ep.Problem(model="mlp", widths=(24, 16), recipe=recipe)
    masks = group(engine, masks_of(problem, 2))
    population = ENGINES[engine].build(problem, masks)
    train(population, problem, 1, seed=0)
    for k, mask in enumerate(masks):
        state = population.state(k)
        moved = 0
        for name, layer in mask.layers.items():
            assert not state[name][torch.from_numpy(~layer)].any()
            moved += int((state[name] != problem.network().state_dict()[name])[torch.from_numpy(layer)].sum())
        assert moved > 0.5 * mask.survivors


def test_sums_are_over_the_survivors(digits: ep.Problem) -> None:
    (mask,) = masks_of(digits, 1)
    population = ModulePopulation(digits, [mask])
    counts = survivor_sums(population, [torch.ones_like(weight) for weight in population.weights])
    assert counts.tolist() == [mask.survivors]


def test_a_mask_of_another_network_is_refused(digits: ep.Problem, engine: str, tensors: ep.Data) -> None:
    other = ep.Problem(model=nn.Sequential(nn.Linear(6, 3)), data=tensors)
    with pytest.raises(ep.InputError, match="does not fit"):
        ENGINES[engine].build(digits, masks_of(other, 1))


def test_the_module_engine_takes_one_mask(digits: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match="one at a time"):
        ModulePopulation(digits, masks_of(digits, 2))


def test_buffers_start_afresh_for_every_individual(tensors: ep.Data, engine: str) -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    problem = ep.Problem(model=network, data=tensors)
    (mask,) = masks_of(problem, 1)
    first = ENGINES[engine].build(problem, [mask])
    train(first, problem, 1, seed=0)
    second = ENGINES[engine].build(problem, [mask])
    assert first.state(0)["1.running_mean"].any()
    assert not second.state(0)["1.running_mean"].any()
    assert np.isfinite(measure(first, problem, "validation").loss).all()


class Residual(nn.Module):
    """Nested, with a layer without bias, layer normalisation, functional ReLU and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12, bias=False)
        self.block = nn.ModuleDict({"norm": nn.LayerNorm(12), "linear": nn.Linear(12, 12)})
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        x = x + torch.tanh(self.block["linear"](self.block["norm"](x)))
        return self.last(self.drop(x))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "sequential": lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9, bias=False), nn.GELU(), nn.Linear(9, 3)),
    "norm first": lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 9), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)),
    "one activation twice": lambda: (lambda relu: nn.Sequential(nn.Linear(6, 9), relu, nn.Linear(9, 9), relu, nn.Linear(9, 3)))(
        nn.ReLU()
    ),
    "one layer": lambda: nn.Linear(6, 3),
    "in place": lambda: nn.Sequential(nn.Linear(6, 9), nn.LeakyReLU(inplace=True), nn.Linear(9, 9), nn.Hardtanh(inplace=True)),
    "plain norm": lambda: nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9, elementwise_affine=False), nn.Linear(9, 3)),
    "noise on the input": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 3)),
}


# every optimiser on the smallest network; the others differ in their layers, which two optimisers see
EVERY = sorted(set(optimizers()) - {"Adafactor", "Muon"})
EQUAL = [(*both, name) for both in SERVED for name in (EVERY if both[1] == "mlp" else ("Adam", "SGD"))]


@pytest.mark.sampled(10)
@pytest.mark.parametrize(("engine", "model", "optimizer"), EQUAL)
def test_equal_to_the_reference_in_float64(engine: str, model: str, optimizer: str) -> None:
    decay = 0.0 if optimizer == "Rprop" else 5e-4
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 1e-3, weight_decay=decay)
    problem = ep.Problem(model, recipe=recipe, dtype="float64", widths=WIDTHS.get(model))
    masks = [ep.random_mask(problem.shapes, s, np.random.default_rng(i), "varied") for i, s in enumerate((0.5, 0.9, 0.95))]
    expected = terms(problem, "module", masks)
    assert (expected[BUILT_IN_TERMS.index("gradient")] > 0).all()  # no mask cuts the network off
    np.testing.assert_allclose(terms(problem, engine, masks), expected, rtol=1e-9)


# resnet-20 has the layers of resnet-8, and is so deep that rounding W0 alone changes its gradients by more than the tolerance
@pytest.mark.sampled(8)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize(("engine", "model"), [both for both in SERVED if both[1] != "resnet-20"])
def test_close_to_the_reference_in_float32_after_20_steps(engine: str, model: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 1e-3)
    problem = ep.Problem(model, recipe=recipe, widths=WIDTHS.get(model))  # the digits: 20 batches of 64
    masks = masks_of(problem, 3, 0.9)
    assert len(problem.data.train[0]) // 64 + 1 == 20
    np.testing.assert_allclose(terms(problem, engine, masks), terms(problem, "module", masks), rtol=1e-4)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("engine", POPULATIONS)
def test_networks_of_the_users_own(engine: str, network: str, tensors: ep.Data) -> None:
    torch.manual_seed(0)
    problem = ep.Problem(NETWORKS[network](), tensors, ep.Recipe(epochs=2, batch_size=16), dtype="float64")
    assert require(engine, problem) is ENGINES[engine]
    masks = masks_of(problem, 3, 0.4)
    expected = terms(problem, "module", masks, epochs=2)
    np.testing.assert_allclose(terms(problem, engine, masks, epochs=2), expected, rtol=1e-9)
    population = ENGINES[engine].build(problem, masks)
    assert list(population.state(2)) == list(problem.network().state_dict())


@pytest.mark.parametrize("engine", POPULATIONS)
def test_an_excluded_layer_is_dense_and_trained(engine: str, tensors: ep.Data) -> None:
    problem = ep.Problem(Residual(), tensors, ep.Recipe(epochs=1, batch_size=16), dtype="float64", exclude=["block"])
    masks = masks_of(problem, 2, 0.5)
    np.testing.assert_allclose(terms(problem, engine, masks), terms(problem, "module", masks), rtol=1e-9)
    population = ENGINES[engine].build(problem, masks)
    train(population, problem, 1, seed=0)
    before, after = problem.network().state_dict()["block.linear.weight"], population.state(1)["block.linear.weight"]
    assert (after != before).all()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("engine", "threads"), [("module", 1), ("sparse", 1), ("sparse", 2)])
def test_company_and_threads_change_no_bit(engine: str, threads: int, dtype: str) -> None:
    problem = ep.Problem(recipe=ep.Recipe(epochs=1, batch_size=50), dtype=dtype)
    masks = masks_of(problem, 5, 0.95)
    together = terms(problem, engine, masks)
    (alone,) = terms(problem, engine, masks[3:4], threads=threads).T
    assert together[:, 3].tolist() == alone.tolist()


def digits_with(model: str | torch.nn.Module, **recipe: object) -> ep.Problem:
    return ep.Problem(model, "digits", ep.Recipe(epochs=1, **recipe))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_company_changes_no_bit_where_the_engine_says_so(model: str, optimizer: str) -> None:
    if optimizer == "RMSprop" and model != "mlp":
        pytest.skip("torch's optimisers see no layers")
    problem = ep.Problem(
        model, recipe=ep.Recipe(epochs=1, batch_size=50, optimizer=optimizer, lr=0.01), widths=WIDTHS.get(model)
    )
    assert ENGINES["sparse"].company_changes_no_bit(problem)
    masks = masks_of(problem, 4, 0.8)
    together, states = trained(problem, "sparse", masks)
    for sizes, threads in (([1] * 4, 1), ([3, 1], 2), ([4], 2)):
        parts = np.split(np.arange(4), np.cumsum(sizes)[:-1])
        found = [trained(problem, "sparse", [masks[i] for i in part], threads=threads) for part in parts]
        assert np.array_equal(together, np.hstack([values for values, _ in found]))
        for state, other in zip(states, chain(*(others for _, others in found)), strict=True):
            assert all(tensor.equal(other[name]) for name, tensor in state.items())


def test_the_engine_claims_nothing_that_was_not_shown(digits: ep.Problem) -> None:
    assert not ENGINES["stacked"].company_changes_no_bit(digits)
    assert ENGINES["module"].company_changes_no_bit(digits)


def wrong_layer(masks: list[ep.Mask]) -> list[ep.Mask]:
    """Moves the masks of two layers of the same shape to one another."""
    layers = [mask.layers for mask in masks]
    return [ep.Mask.from_layers({**m, "fc2.weight": m["fc3.weight"], "fc3.weight": m["fc2.weight"]}) for m in layers]


@pytest.mark.parametrize("engine", POPULATIONS)
def test_the_comparison_sees_a_mask_on_the_wrong_layer(engine: str) -> None:
    problem = ep.Problem("mlp", widths=(20, 20, 20), recipe=ep.Recipe(epochs=1), dtype="float64")
    masks = masks_of(problem, 2)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(terms(problem, engine, wrong_layer(masks)), terms(problem, "module", masks), rtol=1e-4)


def test_the_parameter_is_the_survivors_and_the_biases(digits: ep.Problem) -> None:
    masks = masks_of(digits, 4, 0.9)
    population = SparsePopulation(digits, masks)
    biases = sum(p.numel() for name, p in digits.network().named_parameters() if name.endswith("bias"))
    assert [vector.numel() for vector in population.parameters()] == [mask.survivors + biases for mask in masks]
