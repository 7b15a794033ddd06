"""The engine ``sparse`` trains and evaluates networks of a user's own as the reference does."""

from collections.abc import Callable

import pytest
import torch
from support.engines import assert_as_module, full_masks
from support.networks import CLASSES, NETWORKS, linear, problem_of, problem_with
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES
from evoprune.engines.sparse.modules import ACTIVATIONS, FUNCTIONS_AS_MODULES


@pytest.mark.sampled(16)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_equal_in_float64(name: str, optimizer: str) -> None:
    problem = problem_of(name, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 1e-3)
    require("sparse", problem)
    assert_as_module(problem, full_masks(problem, 2))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_close_in_float32_after_20_steps(name: str) -> None:
    problem = problem_of(name, "float32", epochs=5, batch_size=15, lr=0.02)
    assert_as_module(problem, full_masks(problem, 2), epochs=5, rtol=1e-4)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("batch_size", [1, 3, 16, 20, 64, 100])
@pytest.mark.parametrize("name", ["sequential", "noise", "tokens", "same", "stride"])
def test_batches_of_any_size_with_a_smaller_last_one(name: str, batch_size: int) -> None:
    problem = problem_of(name, train=121 if batch_size > 3 else 31, batch_size=batch_size, lr=0.01)
    assert_as_module(problem, full_masks(problem, 2))


@pytest.mark.parametrize("batch_size", [3, 16, 20, 64, 100])
@pytest.mark.parametrize("name", ["batch norm", "residual images"])
def test_batches_of_any_size_with_batch_normalisation(name: str, batch_size: int) -> None:
    problem = problem_of(name, train=122 if batch_size > 3 else 32, batch_size=batch_size, lr=0.01)
    assert_as_module(problem, full_masks(problem, 2))


@pytest.mark.sampled(12)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_an_untrained_network_computes_the_same_in_both_modes(name: str, dtype: str) -> None:
    problem = problem_of(name, dtype)
    masks = full_masks(problem, 3)
    population = ENGINES["sparse"].build(problem, masks)
    references = [ENGINES["module"].build(problem, [mask]) for mask in masks]
    x, _ = problem.part("train")
    for training in (True, False):
        population.train(training)
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = population(x)
        for output, reference in zip(outputs, references, strict=True):
            reference.train(training)
            torch.manual_seed(0)
            torch.testing.assert_close(output, reference(x)[0].detach())


ARGUMENTS: dict[type[nn.Module], tuple[dict[str, object], ...]] = {
    nn.LeakyReLU: ({"negative_slope": 0.2},),
    nn.ELU: ({"alpha": 0.7},),
    nn.CELU: ({"alpha": 0.7},),
    nn.Hardtanh: ({"min_val": -0.3, "max_val": 0.8},),
    nn.Hardshrink: ({"lambd": 0.2},),
    nn.Softshrink: ({"lambd": 0.2},),
    nn.GELU: ({"approximate": "tanh"},),
    nn.Softplus: ({"beta": 3.0, "threshold": 2.0},),
}


# torch computes their derivatives with constants of float32
ROUNDED = (nn.CELU, nn.Hardsigmoid)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_activations(kind: type[nn.Module], dtype: str) -> None:
    for options in ({}, *ARGUMENTS.get(kind, ())):
        # the input's activation has no gradient, and the first layer's is read twice
        make = lambda options=options: nn.Sequential(kind(**options), nn.Linear(6, 12), kind(**options), nn.Linear(12, CLASSES))  # noqa: E731
        problem = problem_with(make, (6,), dtype, lr=0.2)
        rtol = 1e-4 if dtype == "float32" else 1e-7 if kind in ROUNDED else 1e-9
        assert_as_module(problem, full_masks(problem, 1), rtol=rtol)


class Calls(nn.Module):
    """A function, or a method by name, between two layers."""

    def __init__(self, function: Callable[..., Tensor] | str, first: nn.Module, last: nn.Module, *given: object) -> None:
        super().__init__()
        self.first, self.last, self.function, self.given = first, last, function, given

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = getattr(x, self.function)() if isinstance(self.function, str) else self.function(x, *self.given)
        return self.last(x.flatten(1))


def title(function: object) -> str:
    return function if isinstance(function, str) else getattr(function, "__name__", str(function))


POOLS = [f for f in FUNCTIONS_AS_MODULES if not isinstance(f, str) and "pool" in FUNCTIONS_AS_MODULES[f].__name__.lower()]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("function", [f for f in FUNCTIONS_AS_MODULES if f not in POOLS], ids=title)
def test_functions_of_torch(function: Callable[..., Tensor] | str) -> None:
    problem = problem_with(lambda: Calls(function, nn.Linear(6, 9), nn.Linear(9, CLASSES)), (6,))
    assert_as_module(problem, full_masks(problem, 1), rtol=1e-7 if FUNCTIONS_AS_MODULES[function] in ROUNDED else 1e-9)


@pytest.mark.parametrize("kind", [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d])
def test_pools_as_functions(kind: type[nn.Module]) -> None:
    n = int(kind.__name__[-2])
    names = {module: function for function, module in FUNCTIONS_AS_MODULES.items()}
    adaptive = getattr(nn, f"Adaptive{kind.__name__}")
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    for function, left in ((names[kind], 2), (names[adaptive], 2)):
        make = lambda f=function, left=left: Calls(f, convolution(2, 3, 1), nn.Linear(3 * left**n, CLASSES), 2)  # noqa: E731
        problem = problem_with(make, (2, *[4] * n))
        assert_as_module(problem, full_masks(problem, 1))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d((2, 3), (2, 1), (1, 1), ceil_mode=True),
        nn.MaxPool2d(3, 3, 1, dilation=2, ceil_mode=True),
        nn.AvgPool2d((2, 3), (1, 2), (1, 1), ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
        nn.AdaptiveAvgPool2d((3, None)),
        nn.AdaptiveMaxPool2d((5, 4)),
    ],
    ids=str,
)
def test_windows_of_pools(pool: nn.Module) -> None:
    features = pool(torch.zeros(1, 3, 7, 8)).numel()
    problem = problem_with(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), pool, *linear(features)), (2, 7, 8))
    assert_as_module(problem, full_masks(problem, 1))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=2),
        nn.Conv2d(4, 6, (5, 1), padding=(2, 3), dilation=(1, 2)),
        nn.Conv2d(4, 6, (2, 4), padding="same", dilation=(2, 1)),
        nn.Conv2d(4, 8, 3, stride=(1, 3), groups=4, bias=False),
        nn.Conv2d(4, 6, 1, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 4, (7, 8), padding=0),
        nn.Conv2d(4, 4, 5, stride=4, padding=4),
    ],
    ids=str,
)
def test_convolutions_before_and_behind_others(convolution: nn.Conv2d) -> None:
    features = convolution(torch.zeros(1, 4, 7, 8)).numel()
    make = lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), convolution, nn.ReLU(), *linear(features))  # noqa: E731
    problem = problem_with(make, (4, 7, 8))
    assert_as_module(problem, full_masks(problem, 2))
    alone = problem_with(lambda: nn.Sequential(convolution, nn.ReLU(), *linear(features)), (4, 7, 8))
    assert_as_module(alone, full_masks(alone, 2))


@pytest.mark.parametrize("exclude", [["conv2"], ["conv1", "last"], ["conv3"]])
def test_an_excluded_layer_is_dense_and_trained(exclude: list[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS["residual images"][0]()
    data = problem_of("residual images").data
    problem = ep.Problem(network, data, ep.Recipe(epochs=1, batch_size=16), dtype="float64", exclude=exclude)
    assert not set(problem.shapes) & {f"{name}.weight" for name in exclude}
    assert_as_module(problem, full_masks(problem, 2))


def test_dropout_with_no_noise_and_with_nothing_but_noise() -> None:
    make = lambda: nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.0), nn.ReLU(), nn.Dropout(1.0), nn.Linear(9, CLASSES))  # noqa: E731
    problem = problem_with(make, (6,))
    assert_as_module(problem, full_masks(problem, 1))


class ViewOf(nn.Module):
    """Flattens by the batch's length, as many networks do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.last, self.how = nn.Conv2d(3, 4, 3), nn.Linear(36, CLASSES), how

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        n = {"size(0)": lambda: x.size(0), "shape[0]": lambda: x.shape[0], "size()[0]": lambda: x.size()[0]}[self.how]()
        return self.last(x.view(n, -1))


@pytest.mark.parametrize("how", ["size(0)", "shape[0]", "size()[0]"])
def test_features_are_flattened_by_the_length_of_the_batch(how: str) -> None:
    problem = problem_with(lambda: ViewOf(how), (3, 5, 5))
    assert_as_module(problem, full_masks(problem, 2))


class Before(nn.Module):
    """ReLU behind a module that does nothing, of a value that is read again."""

    def __init__(self, nothing: nn.Module) -> None:
        super().__init__()
        self.first, self.nothing, self.last = nn.Linear(6, 8), nothing, nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.relu(self.nothing(x)) + x)


@pytest.mark.parametrize("nothing", [nn.Identity(), nn.Dropout(0.0)], ids=str)
def test_relu_changes_no_value_that_is_read_again(nothing: nn.Module) -> None:
    problem = problem_with(lambda: Before(nothing), (6,))
    assert_as_module(problem, full_masks(problem, 2))


def test_a_network_of_one_layer() -> None:
    problem = problem_with(lambda: nn.Linear(6, CLASSES), (6,))
    assert_as_module(problem, full_masks(problem, 2))
