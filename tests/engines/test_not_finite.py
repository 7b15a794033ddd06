"""Values that are not finite pass through the kernels of ``sparse`` as through torch, where no weight is removed."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.networks import CLASSES, NETWORKS, examples, problem_of, problem_with
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.engines.sparse.kernels.updates import clip
from evoprune.engines.sparse.modules import ACTIVATIONS

BAD = [math.nan, math.inf, -math.inf]


def dense(problem: ep.Problem) -> list[ep.Mask]:
    return [ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes)]


def outputs(engine: str, problem: ep.Problem, x: Tensor) -> Tensor:
    population = ENGINES[engine].build(problem, dense(problem))
    population.train(False)
    with torch.no_grad():
        found: Tensor = population(x)[0]
    return found


def assert_as_torch(problem: ep.Problem, bad: float, places: list[int]) -> None:
    """Puts a value into one example, at some places, and compares the outputs; torch makes NaN of some infinities."""
    x = problem.part("train")[0][:40].clone()
    x[3].view(-1)[places] = bad
    expected, found = outputs("module", problem, x), outputs("sparse", problem, x)
    torch.testing.assert_close(*(y.masked_fill(~y.isfinite(), math.nan) for y in (found, expected)), equal_nan=True)
    assert torch.isfinite(found[[0, 1, 2, 4, 5]]).all()


@pytest.mark.sampled(40)
@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_through_an_activation(kind: type[nn.Module], dtype: str, bad: float) -> None:
    alone = problem_with(lambda: nn.Sequential(kind(), nn.Linear(6, CLASSES)), (6,), dtype)
    behind = problem_with(lambda: nn.Sequential(nn.Linear(6, 9), kind(), nn.Linear(9, CLASSES)), (6,), dtype)
    for problem in (alone, behind):
        if kind is nn.Softshrink and math.isnan(bad):  # some versions of torch make zero of NaN
            assert outputs("sparse", problem, torch.full((1, 6), bad, dtype=problem.dtype)).isnan().all()
        else:
            assert_as_torch(problem, bad, [2])


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("name", ["batch norm", "residual", "residual images", "same", "stride"])
def test_through_layers_that_are_computed_with_their_activation(name: str, bad: float) -> None:
    assert name in NETWORKS
    assert_as_torch(problem_of(name, "float32"), bad, [1])


@pytest.mark.parametrize("place", range(4))
def test_the_maximum_of_a_window_with_nan_is_nan(place: int) -> None:
    make: Callable[[], nn.Module] = lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, CLASSES))  # noqa: E731
    problem = problem_with(make, (2, 2, 2), "float32")
    assert_as_torch(problem, math.nan, [place])


def test_a_weight_that_is_nan_makes_the_outputs_nan() -> None:
    """Else a network that has diverged would look as if it had trained."""
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    problem = ep.Problem(network, examples((6,)), seed=0)
    for engine in ("module", "sparse"):
        population = ENGINES[engine].build(problem, dense(problem))
        with torch.no_grad():
            for parameter in population.parameters():
                parameter.view(-1)[0] = math.nan
        population.train(False)
        assert population(problem.part("train")[0][:5])[0].isnan().all()


class Rectified(nn.Module):
    """A sum behind which ReLU follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layer(x))


# whether torch passes a gradient on behind NaN depends on the length of the array
UNDECIDED = (nn.ELU, nn.CELU, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Hardtanh, nn.ReLU6)
BEHIND: dict[str, Callable[[], nn.Module]] = {
    **{kind.__name__: kind for kind in ACTIVATIONS if kind not in UNDECIDED},
    "linear and ReLU": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()),
    "batch norm and ReLU": lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()),
    "sum and ReLU": Rectified,
    "maximum": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(4, 6)),
}


@pytest.mark.sampled(30)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("name", BEHIND)
def test_gradients_behind_nan_are_those_of_torch(name: str, place: int, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(BEHIND[name](), nn.Linear(6, 3)).to(dtype).eval()
        x = torch.randn(5, 6, dtype=dtype)
    x[1, place] = math.nan
    masks = {key: torch.ones_like(p, dtype=torch.bool) for key, p in network.named_parameters() if p.ndim > 1}
    found = []
    for each in (network, ep.sparse(network, masks).eval()):
        inputs = x.clone().requires_grad_()
        each(inputs).sum().backward()
        found.append(inputs.grad)
    torch.testing.assert_close(found[1], found[0], equal_nan=True)


def test_a_gradient_of_nan_makes_all_nan_where_gradients_are_clipped() -> None:
    bad = np.array([math.nan, 100, -100], np.float32)
    one = SimpleNamespace(values=bad, gradients=bad.copy())
    clip.py_func(one, 1.0, math.inf)
    assert np.isnan(one.gradients).all()


def test_a_variance_that_overflows_makes_no_constant() -> None:
    make: Callable[[], nn.Module] = lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, CLASSES))  # noqa: E731
    x = torch.linspace(-1, 1, 6).repeat(3, 1) * torch.tensor([[1.0], [1e25], [1.0]])
    found = outputs("sparse", problem_with(make, (6,), "float32"), x)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
