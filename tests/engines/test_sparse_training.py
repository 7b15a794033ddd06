"""Losses, optimisers and changing masks in the kernels of the engine ``sparse``, one by one, beside torch."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.engines import full_masks, trained
from support.networks import CLASSES, examples, problem_of
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.engines.population import Population, Stint
from evoprune.engines.registry import ENGINES
from evoprune.engines.sparse.fused import loss_of, update_of
from evoprune.engines.steps import train_steps
from evoprune.training.gradient import dense_gradient, population_gradient

WEIGHTS = torch.tensor([1.0, 3.0, 0.0, 0.5], dtype=torch.float64)


def smoothed(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, label_smoothing=0.1)


# each with whether the kernels know it
LABELLED: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "cross-entropy": (nn.CrossEntropyLoss(), True),
    "function": (F.cross_entropy, True),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.3), True),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), True),
    "both": (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2), True),
    "partial": (functools.partial(F.cross_entropy, weight=WEIGHTS, label_smoothing=0.1), True),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), False),
    "ignored label": (nn.CrossEntropyLoss(ignore_index=2), False),
    "of one's own": (smoothed, False),
}


@pytest.mark.sampled(11)
@pytest.mark.parametrize("batch_size", [16, 7, 40])
@pytest.mark.parametrize("name", sorted(LABELLED))
def test_losses_of_labels(name: str, batch_size: int) -> None:
    loss, known = LABELLED[name]
    network = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, CLASSES))
    recipe = ep.Recipe(epochs=1, batch_size=batch_size, lr=0.001 if name == "sum" else 0.05)
    problem = ep.Problem(network, examples((6,)), recipe, loss=loss, dtype="float64")
    assert (loss_of(problem, (CLASSES,)) is not None) == known
    assert_equal(problem, full_masks(problem, 2))


class Positions(nn.Module):
    """Scores [batch, classes, positions]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("kind", ["values", "images", "labels by position"])
def test_losses_of_values_and_of_many_labels(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, 5, generator=generator)
    if kind == "values":
        network: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
        y, loss = torch.randn(60, 3, generator=generator), nn.MSELoss()
    elif kind == "images":
        network, y, loss = Positions(), torch.randn(60, CLASSES, 5, generator=generator), nn.MSELoss()
    else:
        network, y, loss = Positions(), torch.randint(0, CLASSES, (60, 5), generator=generator), nn.CrossEntropyLoss()
    problem = ep.Problem(network, ep.Data(train=(x, y)), ep.Recipe(epochs=1, batch_size=16), loss=loss, dtype="float64")
    shape = tuple(network(x[:1]).shape[1:])
    assert (loss_of(problem, shape) is not None) == (kind != "labels by position")
    assert_equal(problem, full_masks(problem, 2))


# each with the options, and whether the kernels know it
OPTIMISERS: dict[str, tuple[str, dict[str, object], bool]] = {
    "SGD": ("SGD", {"momentum": 0.0}, True),
    "SGD, decay": ("SGD", {"momentum": 0.0, "weight_decay": 0.01}, True),
    "momentum": ("SGD", {"momentum": 0.9}, True),
    "momentum, decay": ("SGD", {"momentum": 0.8, "weight_decay": 0.01}, True),
    "dampening": ("SGD", {"momentum": 0.9, "options": {"dampening": 0.4}}, True),
    "Nesterov": ("SGD", {"momentum": 0.9, "weight_decay": 0.01, "options": {"nesterov": True}}, True),
    "SGD, maximize": ("SGD", {"momentum": 0.9, "options": {"maximize": True}}, False),
    "Adam": ("Adam", {}, True),
    "Adam, betas": ("Adam", {"weight_decay": 0.01, "options": {"betas": (0.8, 0.95), "eps": 1e-4}}, True),
    "AMSGrad": ("Adam", {"options": {"amsgrad": True}}, False),
    "AdamW": ("AdamW", {"weight_decay": 0.05}, True),
    "Adam, decoupled": ("Adam", {"weight_decay": 0.05, "options": {"decoupled_weight_decay": True}}, True),
    "RMSprop": ("RMSprop", {"momentum": 0.5}, False),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_an_optimiser_moves_and_remembers_as_torch_does(name: str) -> None:
    kind, options, known = OPTIMISERS[name]
    problem = problem_of("sequential", optimizer=kind, lr=0.01, **options)
    masks = full_masks(problem, 2)
    found = Training(problem, "sparse", masks)
    expected = [Training(problem, "module", [mask]) for mask in masks]
    for start in (0, 3, 4):  # stints of three steps, of one, and of two
        count = {0: 3, 3: 1, 4: 2}[start]
        for each in (found, *expected):
            each.take(start, count)
    assert (update_of(found.optimizer, found.population.weights) is not None) == known
    assert_as(found, expected, problem)
    memories = found.optimizer.state[found.population.weights[0]]
    assert set(memories) == set(expected[0].optimizer.state[next(expected[0].population.parameters())])
    if "step" in memories:
        assert int(memories["step"]) == 6


# a network each, whose masks shrink, grow and change in mid-training
CHANGING = ["residual images", "groups", "conv1d", "conv3d", "convolution twice", "tokens", "stride"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CHANGING)
def test_masks_change_under_convolutions(name: str, optimizer: str) -> None:
    problem = problem_of(name, optimizer=optimizer, lr=0.02 if optimizer == "SGD" else 1e-3)
    stages = [full_masks(problem, 2, density) for density in (0.9, 0.5, 0.7, 0.2)]
    stages.append([stages[-1][0], stages[0][1]])  # one stays as it is
    found = Training(problem, "sparse", stages[0])
    expected = [Training(problem, "module", [mask]) for mask in stages[0]]
    for i, masks in enumerate(stages):
        found.change(masks)
        for reference, mask in zip(expected, masks, strict=True):
            reference.change([mask])
        for each in (found, *expected):
            each.take(2 * i, 2)
        assert_as(found, expected, problem)
    for k, mask in enumerate(stages[-1]):
        for layer, bits in mask.layers.items():
            assert not found.population.state(k)[layer][torch.from_numpy(~bits)].any()


WITH_GRADIENTS = ["sequential", "tied", "twice", "batch norm", "noise", "tokens"]
WITH_GRADIENTS += ["residual images", "groups", "conv1d", "conv3d", "dilated"]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [500, 33, 7])
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_the_dense_gradient_is_torchs(name: str, batch: int, dtype: str) -> None:
    problem = problem_of(name, dtype)
    population = ENGINES["sparse"].build(problem, full_masks(problem, 2))
    training = Training(problem, "sparse", population.masks, population)
    training.take(0, 3)  # statistics have moved
    before = [population.state(k) for k in range(2)]
    for k in range(2):
        found = population_gradient(problem, population, k, seed=1, batch=batch)
        expected = dense_gradient(problem, before[k], seed=1, batch=batch)
        scale = float(expected.max())
        assert np.count_nonzero(expected) > 0.3 * len(expected)
        rtol, atol = (1e-9, 0.0) if dtype == "float64" else (1e-3, 1e-5 * scale)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
        assert all(tensor.equal(before[k][name]) for name, tensor in population.state(k).items())
    training.take(3, 2)  # nothing of it is left in the rooms
    whole = Training(problem, "sparse", population.masks)
    whole.take(0, 3)
    whole.take(3, 2)
    for k in range(2):
        assert all(tensor.equal(whole.population.state(k)[name]) for name, tensor in population.state(k).items())


def test_the_dense_gradient_of_a_loss_that_torch_computes() -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, CLASSES))
    problem = ep.Problem(network, examples((6,)), ep.Recipe(epochs=1), loss=smoothed, dtype="float64")
    (mask,) = full_masks(problem, 1)
    population = ENGINES["sparse"].build(problem, [mask])
    found = population_gradient(problem, population, 0, seed=1)
    np.testing.assert_array_equal(found, dense_gradient(problem, population.state(0), seed=1))


def test_every_example_is_of_a_class_without_weight() -> None:
    """Torch divides zero by zero; so do the kernels."""
    loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    problem = ep.Problem(nn.Linear(6, CLASSES), examples((6,)), ep.Recipe(epochs=1), loss=loss, dtype="float64")
    _, y = problem.part("train")
    rows = torch.nonzero(y == 2)[:, 0]
    for engine in ("sparse", "module"):
        training = Training(problem, engine, full_masks(problem, 1))
        (found,) = train_steps(training.population, problem, Stint([rows], [0.1]), training.optimizer, ())
        assert np.isnan(found)


class Training:
    """A population in training, with the sums of |g|."""

    def __init__(self, problem: ep.Problem, engine: str, masks: list[ep.Mask], population: Population | None = None) -> None:
        self.problem = problem
        self.population = population or ENGINES[engine].build(problem, masks)
        self.population.train()
        self.optimizer = problem.recipe.make_optimizer(list(self.population.parameters()))
        self.sums = [torch.zeros_like(weight) for weight in self.population.weights]
        self.losses = np.zeros(len(masks))

    def take(self, start: int, count: int) -> None:
        """Takes some steps, whose batches and rates their numbers decide."""
        n, rates = len(self.problem.part("train")[0]), [0.02 / (1 + step) for step in range(start, start + count)]
        rows = [(torch.arange(self.problem.recipe.batch_size) + 13 * step) % n for step in range(start, start + count)]
        with torch.random.fork_rng():
            torch.manual_seed(start)  # dropout
            self.losses += train_steps(self.population, self.problem, Stint(rows, rates), self.optimizer, self.sums)

    def change(self, masks: list[ep.Mask]) -> None:
        self.sums = self.population.set_masks(masks, self.optimizer, self.sums)

    def tensors(self, k: int) -> dict[str, Tensor]:
        """Returns everything of an individual by name, dense: its state, the optimiser's memories, the sums."""
        parameters = list(self.population.parameters())
        names = list(self.optimizer.state.get(parameters[0], {}))
        found = dict(self.population.state(k))
        for name in names:
            memories = [self.optimizer.state[parameter][name] for parameter in parameters]
            if memories[0].shape == parameters[0].shape:
                dense = self.population.unpack(k, memories)
                for layer, bits in self.population.masks[k].layers.items():  # what a removed weight remembers is nothing's
                    dense[layer] = dense[layer] * torch.from_numpy(bits)
                found |= {f"{name} of {key}": value for key, value in dense.items()}
        found["sums"] = self.population.survivor_values(k, self.sums)
        return found


def assert_as(found: Training, expected: list[Training], problem: ep.Problem) -> None:
    np.testing.assert_allclose(found.losses, [reference.losses[0] for reference in expected], rtol=1e-9)
    for k, reference in enumerate(expected):
        tensors, others = found.tensors(k), reference.tensors(0)
        assert set(tensors) == set(others)
        for name, tensor in others.items():
            scale = float(tensor.abs().max()) if tensor.numel() else 0.0
            torch.testing.assert_close(tensors[name], tensor, rtol=1e-9, atol=1e-10 * max(scale, 0.1))


def assert_equal(problem: ep.Problem, masks: list[ep.Mask]) -> None:
    (found, states), (expected, references) = (trained(problem, engine, masks) for engine in ("sparse", "module"))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    for state, reference in zip(states, references, strict=True):
        for name, tensor in reference.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-8, atol=1e-10)
