"""Engines against the reference engine, ``module``; whatever is registered is tested."""

import itertools
import json
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.check import require
from evoprune.engines.module import ModulePopulation
from evoprune.engines.move import move
from evoprune.engines.population import Population
from evoprune.engines.registry import ENGINES
from evoprune.engines.sparse import csr
from evoprune.engines.sparse.convert import company_changes_no_bit
from evoprune.engines.sparse.csr import Pattern
from evoprune.engines.sparse.population import SparsePopulation
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.job import BriefTraining, Job
from evoprune.evaluation.terms import BUILT_IN_TERMS, TERMS, Outcome, survivor_sums
from evoprune.problem.models import MODELS
from evoprune.problem.recipe import optimizers
from evoprune.training.loop import train
from evoprune.training.measure import measure
from evoprune.training.threads import torch_threads

POPULATIONS = sorted(name for name, engine in ENGINES.items() if engine.capacity is None)
CONVOLUTIONAL = [name for name in sorted(MODELS) if name.startswith(("conv", "resnet"))]
LINEAR = sorted(set(MODELS) - set(CONVOLUTIONAL))
WIDTHS = {"mlp": (40, 30), "autoencoder": (30, 10)} | {name: (8,) if "conv" in name else (4,) for name in CONVOLUTIONAL}
REFUSED = [("sparse", name) for name in CONVOLUTIONAL]
SERVED = [both for both in itertools.product(POPULATIONS, sorted(MODELS)) if both not in REFUSED]


def masks_of(problem: ep.Problem, count: int, sparsity: float = 0.8) -> list[ep.Mask]:
    rng = np.random.default_rng(1)
    return [ep.random_mask(problem.shapes, sparsity, rng) for _ in range(count)]


def group(engine: str, masks: list[ep.Mask]) -> list[ep.Mask]:
    return masks[: ENGINES[engine].capacity]


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
    if engine != "module":
        pytest.skip("batch normalisation is the reference engine's")
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


def terms(problem: ep.Problem, engine: str, masks: Sequence[ep.Mask], epochs: int = 1, threads: int = 1) -> np.ndarray:
    """Returns every fitness term of every mask, [terms, K]."""
    size = ENGINES[engine].capacity or len(masks)
    columns = []
    with torch_threads(threads):
        for start in range(0, len(masks), size):
            population = ENGINES[engine].build(problem, masks[start : start + size])
            trained = train(population, problem, epochs, seed=3)
            validation = measure(population, problem, "validation")
            outcome = Outcome(**vars(trained), problem=problem, validation=validation)
            columns.append([TERMS[name](outcome) for name in BUILT_IN_TERMS])
    return np.concatenate(columns, axis=1)


# every optimiser on the smallest network; the others differ in their layers, which two optimisers see
EVERY = sorted(set(optimizers()) - {"Adafactor", "Muon"})
EQUAL = [(*both, name) for both in SERVED for name in (EVERY if both[1] == "mlp" else ("Adam", "SGD"))]


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
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize(("engine", "model"), [both for both in SERVED if both[1] != "resnet-20"])
def test_close_to_the_reference_in_float32_after_20_steps(engine: str, model: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 1e-3)
    problem = ep.Problem(model, recipe=recipe, widths=WIDTHS.get(model))  # the digits: 20 batches of 64
    masks = masks_of(problem, 3, 0.9)
    assert len(problem.data.train[0]) // 64 + 1 == 20
    np.testing.assert_allclose(terms(problem, engine, masks), terms(problem, "module", masks), rtol=1e-4)


@pytest.mark.parametrize(("engine", "model"), REFUSED)
def test_a_named_network_that_an_engine_cannot_serve_is_refused(engine: str, model: str) -> None:
    with pytest.raises(ep.InputError, match="no convolutions yet"):
        require(engine, ep.Problem(model, widths=WIDTHS[model]))


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


@pytest.mark.parametrize(
    "model", [name for engine, name in SERVED if engine == "sparse" and MODELS[name].loss == "cross-entropy"]
)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_company_changes_no_bit_where_the_engine_says_so(model: str, optimizer: str) -> None:
    problem = digits_with(model, batch_size=50, optimizer=optimizer, lr=0.01)
    assert company_changes_no_bit(problem)
    masks = masks_of(problem, 7, 0.9)
    together = terms(problem, "sparse", masks)
    for sizes in ([1] * 7, [3, 4], [2, 5]):
        parts = np.split(np.arange(7), np.cumsum(sizes)[:-1])
        assert np.array_equal(together, np.hstack([terms(problem, "sparse", [masks[i] for i in part]) for part in parts]))


def test_the_engine_claims_nothing_that_was_not_shown(digits: ep.Problem) -> None:
    assert company_changes_no_bit(digits)
    assert not company_changes_no_bit(digits_with("autoencoder"))
    gelu = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.GELU(), torch.nn.Linear(20, 10))
    assert not company_changes_no_bit(digits_with(gelu))
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


def test_the_comparison_sees_a_leak_between_individuals(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ep.Problem("mlp", widths=(20, 20), recipe=ep.Recipe(epochs=1), dtype="float64")
    masks = masks_of(problem, 3)

    class Leaky(Pattern):
        """Every individual reads the first one's hidden units."""

        def __init__(self, indices: Tensor, counts: Sequence[int], shape: tuple[int, int], shared: bool) -> None:
            super().__init__(indices, counts, shape, shared)
            if not shared:
                self.col = self.col % shape[1]

    monkeypatch.setattr(csr, "Pattern", Leaky)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(terms(problem, "sparse", masks), terms(problem, "module", masks), rtol=1e-4)


def test_the_parameter_is_the_survivors_and_the_biases(digits: ep.Problem) -> None:
    masks = masks_of(digits, 4, 0.9)
    population = SparsePopulation(digits, masks)
    biases = sum(p.numel() for name, p in digits.network().named_parameters() if name.endswith("bias"))
    (flat,) = population.parameters()
    assert flat.numel() == sum(mask.survivors for mask in masks) + 4 * biases


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_weights_removed_in_the_middle_of_training_stay_zero(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem("mlp", widths=(20, 10), recipe=recipe, dtype="float64")
    masks = masks_of(problem, 2)
    smaller = [
        ep.Mask(mask.bits & (np.random.default_rng(k).random(len(mask)) < 0.5), mask.shapes) for k, mask in enumerate(masks)
    ]
    found = [two_halves(problem, engine, group, less) for group, less in groups(engine, masks, smaller)]
    expected = [two_halves(problem, "module", group, less) for group, less in groups("module", masks, smaller)]
    for state, reference, mask in zip(chain(*found), chain(*expected), smaller, strict=True):
        for name, layer in mask.layers.items():
            assert not state[name][torch.from_numpy(~layer)].any()
            torch.testing.assert_close(state[name], reference[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_masks_that_grow_in_the_middle_of_training(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem("mlp", widths=(20, 10), recipe=recipe, dtype="float64")
    masks, rng = masks_of(problem, 2), np.random.default_rng(7)
    others = [ep.random_mask(problem.shapes, sparsity, rng, "varied") for sparsity in (0.7, 0.9)]
    found = [two_halves(problem, engine, *both) for both in groups(engine, masks, others)]
    expected = [two_halves(problem, "module", *both) for both in groups("module", masks, others)]
    for state, reference, mask in zip(chain(*found), chain(*expected), others, strict=True):
        for name, layer in mask.layers.items():
            assert not state[name][torch.from_numpy(~layer)].any()
            torch.testing.assert_close(state[name], reference[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_survivors_keep_weight_and_memory_and_the_others_begin_at_zero(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem("mlp", widths=(20, 10), recipe=recipe)
    rng = np.random.default_rng(3)
    steps = [[ep.random_mask(problem.shapes, 0.6, rng) for _ in range(2)] for _ in range(3)]  # some weights go and come back
    steps = [group(engine, masks) for masks in steps]
    population = ENGINES[engine].build(problem, steps[0])
    trainer = problem.recipe.make_optimizer(list(population.parameters()))
    for before, now in itertools.pairwise(steps):
        take_steps(problem, population, trainer, 3)
        old = tensors_of(problem, population, trainer)
        carried = population.set_masks(now, trainer, [2 * weight.detach() for weight in population.weights])
        new = tensors_of(problem, population, trainer)
        assert list(old) == list(new)
        assert len(old) == (2 if optimizer == "SGD" else 3)
        for name, k in itertools.product(old, range(len(now))):
            kept = before[k].bits & now[k].bits
            assert not new[name][k][now[k].bits & ~before[k].bits].any()
            np.testing.assert_array_equal(new[name][k][kept], old[name][k][kept])
            assert np.count_nonzero(new[name][k][kept]) > 0.5 * kept.sum()
        for k, mask in enumerate(now):
            expected = 2 * new["weight"][k][mask.bits]
            np.testing.assert_array_equal(population.survivor_values(k, carried).numpy(), expected)
    take_steps(problem, population, trainer, 3)
    grown = steps[2][0].bits & ~steps[1][0].bits
    assert np.count_nonzero(tensors_of(problem, population, trainer)["weight"][0][grown]) > 0.5 * grown.sum()


def take_steps(problem: ep.Problem, population: Population, optimizer: torch.optim.Optimizer, count: int) -> None:
    x, y = problem.data.train
    for step in range(count):
        rows = slice(step * 32, (step + 1) * 32)
        optimizer.zero_grad()
        sum(problem.loss(output, y[rows]) for output in population(x[rows])).backward()
        population.mask_gradients()
        optimizer.step()
        population.mask_weights()


def tensors_of(problem: ep.Problem, population: Population, optimizer: torch.optim.Optimizer) -> dict[str, list[np.ndarray]]:
    """Returns weights and optimiser's memories, by name: dense over the prunable weights, one an individual."""
    parameters = list(population.parameters())
    memories = [optimizer.state[parameter] for parameter in parameters]
    names = [name for name, memory in memories[0].items() if memory.shape == parameters[0].shape]
    tensors = {"weight": [p.detach() for p in parameters]} | {name: [memory[name] for memory in memories] for name in names}
    found = {}
    for name, values in tensors.items():
        dense = [population.unpack(k, values) for k in range(population.size)]
        found[name] = [np.concatenate([one[layer].numpy().ravel() for layer in problem.shapes]) for one in dense]
    return found


def groups(engine: str, *masks: list[ep.Mask]) -> list[tuple[list[ep.Mask], ...]]:
    size = ENGINES[engine].capacity or len(masks[0])
    return [tuple(m[start : start + size] for m in masks) for start in range(0, len(masks[0]), size)]


def two_halves(
    problem: ep.Problem, engine: str, masks: list[ep.Mask], others: list[ep.Mask], second: str | None = None
) -> list[dict[str, Tensor]]:
    """Takes ten steps with the masks, and ten with others, under the second engine."""
    population = ENGINES[engine].build(problem, masks)
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    take_steps(problem, population, optimizer, 10)
    population.set_masks(others, optimizer)
    if second is not None:
        population, optimizer = move(population, optimizer, problem, second)
    take_steps(problem, population, optimizer, 10)
    return [population.state(k) for k in range(len(masks))]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("first", sorted(ENGINES))
@pytest.mark.parametrize("second", sorted(ENGINES))
def test_an_engine_is_changed_in_the_middle_of_training(first: str, second: str, optimizer: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 10, bias=False))
    recipe = ep.Recipe(epochs=1, optimizer=optimizer, lr=0.01)
    problem = ep.Problem(network, ep.Problem().data, recipe, dtype="float64")
    masks = masks_of(problem, 2)
    for group in [masks] if "module" not in (first, second) else [[mask] for mask in masks]:
        found = two_halves(problem, first, group, group, second)
        expected = [state for mask in group for state in two_halves(problem, "module", [mask], [mask])]
        for state, reference in zip(found, expected, strict=True):
            for name, tensor in reference.items():
                torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12)


def test_convolutions_are_for_the_other_engines() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    problem = ep.Problem(network, ep.Problem().data, ep.Recipe(epochs=1), dtype="float64")
    with pytest.raises(ep.InputError, match=r"0 is Conv2d; the engine 'sparse' has no convolutions yet"):
        require("sparse", problem)
    masks = masks_of(problem, 2)
    np.testing.assert_allclose(terms(problem, "stacked", masks), terms(problem, "module", masks), rtol=1e-9)
    assert auto.choose(problem, 0.99, 16) in ("module", "stacked")


class Reshaping(nn.Sequential):
    """Takes the first dimension for the batch, behind a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x).reshape(x.shape[0], -1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), "1 is BatchNorm1d; the engine 'sparse' serves"),
        (nn.Sequential(nn.Linear(6, 8), nn.Softmax(dim=1), nn.Linear(8, 3)), "1 is Softmax"),
        (Reshaping(nn.Linear(6, 8), nn.Linear(8, 3)), "cannot follow this network"),
    ],
)
def test_a_network_that_sparse_cannot_serve_is_refused_up_front(network: nn.Module, message: str, tensors: ep.Data) -> None:
    problem = ep.Problem(network, tensors)
    with pytest.raises(ep.InputError, match=message):
        ep.make_toolbox(problem, engine="sparse")
    assert ep.make_toolbox(problem, engine="auto").evaluate.func.brief.engine != "sparse"


def frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    network[0].requires_grad_(False)
    return network


def reused() -> nn.Module:
    hidden = nn.Linear(9, 9)
    return nn.Sequential(nn.Linear(6, 9), hidden, nn.ReLU(), hidden, nn.Linear(9, 3))


def tied_biases() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))
    network[2].bias = network[0].bias
    return network


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class FunctionalNoise(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[1](torch.nn.functional.dropout(self[0](x), 0.5, self.training))


UNUSUAL = [frozen, reused, tied_biases, Unused, lambda: FunctionalNoise(nn.Linear(6, 9), nn.Linear(9, 3))]


@pytest.mark.parametrize("make", UNUSUAL)
@pytest.mark.parametrize("engine", POPULATIONS)
def test_unusual_networks_are_trained_as_by_the_reference_or_refused(
    engine: str, make: Callable[[], nn.Module], tensors: ep.Data
) -> None:
    problem = ep.Problem(make(), tensors, ep.Recipe(epochs=1, batch_size=16), dtype="float64")
    masks = masks_of(problem, 2, 0.4)
    reference = ENGINES["module"].build(problem, masks[1:])
    try:
        require(engine, problem)
    except ep.InputError as error:
        assert engine == "sparse" and "Use the engine 'module'" in str(error)
        return
    np.testing.assert_allclose(terms(problem, engine, masks), terms(problem, "module", masks), rtol=1e-9)
    assert list(ENGINES[engine].build(problem, masks).state(1)) == list(reference.state(0))


@pytest.mark.parametrize("engine", POPULATIONS)
def test_dropout_on_images(engine: str) -> None:
    network = nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    problem = ep.Problem(network, ep.Problem().data, ep.Recipe(epochs=1), dtype="float64")
    require(engine, problem)
    masks = masks_of(problem, 2)
    np.testing.assert_allclose(terms(problem, engine, masks), terms(problem, "module", masks), rtol=1e-9)


@pytest.mark.parametrize("engine", POPULATIONS)
def test_an_optimizer_that_looks_at_whole_tensors_is_refused(engine: str) -> None:
    problem = ep.Problem("mlp", recipe=ep.Recipe(optimizer="Adafactor"))
    with pytest.raises(ep.InputError, match="must work on each weight by itself"):
        require(engine, problem)


def test_auto_takes_the_least_cost_that_can_serve(digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = tmp_path / "costs.json"
    monkeypatch.setattr(auto, "COSTS", costs)
    # a step costs 3 a network one after another, 1 and a dense part together, or 2 and a sparse part
    costs.write_text(json.dumps({"cpu": {"module": [0, 3, 0, 0], "stacked": [1, 0, 1e-3, 0], "sparse": [2, 0, 0, 1e-3]}}))
    n = digits.prunable_count * digits.recipe.batch_size
    assert auto.features(digits, 0.75, 4) == [1.0, 4.0, 4.0 * n, 1.0 * n]
    assert auto.choose(digits, 0.999, 8) == "sparse"
    assert auto.choose(digits, 0.0, 1) == "module"
    assert auto.resolve("stacked", digits, 0.5, 1) == "stacked"


def test_auto_without_mkl_takes_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = ep.Problem(model="mlp", widths=(24, 16))
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with pytest.raises(ep.InputError, match="no MKL"):
        require("sparse", digits)
    assert auto.choose(digits, 0.99, 16) != "sparse"


def in_evaluation(self: nn.Module, z: Tensor) -> Tensor:
    return z if self.training else z.softmax(1)


def over_the_batch(self: nn.Module, z: Tensor) -> Tensor:
    return z if self.training else z - z.mean(0)


def some_outputs(self: nn.Module, z: Tensor) -> Tensor:
    return z if self.training else z * (torch.arange(z.shape[1]) < 5)[None]


def large_batches(self: nn.Module, z: Tensor) -> Tensor:
    return z if z.shape[0] < 100 else -z


def last_batches(self: nn.Module, z: Tensor) -> Tensor:
    return z if z.shape[0] != 1258 % 64 else 2 * z


def normalised(self: nn.Module, z: Tensor) -> Tensor:
    return nn.functional.normalize(z, dim=1)


def of_one_dimension(self: nn.Module, z: Tensor) -> Tensor:
    return z + z.new_ones(z.shape[0])[:, None]


def in_place_of_rows(self: nn.Module, z: Tensor) -> Tensor:
    return z if self.training else torch.cat([z[:1], z[1:]])


# What follows a chain of linear layers. Under an engine that puts individuals before the batch, most do something else.
ENDINGS = [
    in_evaluation,
    over_the_batch,
    some_outputs,
    large_batches,
    last_batches,
    normalised,
    of_one_dimension,
    in_place_of_rows,
]


class Ending(nn.Module):
    def __init__(self, ending: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
        self.ending = ending

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self, self.body(x))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("engine", POPULATIONS)
def test_an_engine_evaluates_as_the_reference_or_is_refused(engine: str, ending: Callable[[nn.Module, Tensor], Tensor]) -> None:
    problem = ep.Problem(model=Ending(ending), recipe=ep.Recipe(epochs=2), initialization="kaiming")
    try:
        require(engine, problem)
    except ep.InputError as error:
        assert "Use the engine 'module'" in str(error)
        assert auto.choose(problem, 0.9, 4) != engine
        return
    masks = masks_of(problem, 4)
    found = evaluate_chunk(Job(problem, BriefTraining(2, 7, engine)), masks)
    expected = evaluate_chunk(Job(problem, BriefTraining(2, 7, "module")), masks)
    for one, other in zip(found, expected, strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-3)
        assert one.validation_accuracy == pytest.approx(other.validation_accuracy, abs=0.02)


def test_what_is_right_in_training_alone_is_refused() -> None:
    for ending in (in_evaluation, over_the_batch, large_batches):
        problem = ep.Problem(model=Ending(ending), recipe=ep.Recipe(epochs=2), initialization="kaiming")
        with pytest.raises(ep.InputError, match=r"in evaluation mode, on 180 examples of the validation set"):
            require("sparse", problem)
        with pytest.raises(ep.InputError):  # found once, and known from then on
            require("sparse", problem)
