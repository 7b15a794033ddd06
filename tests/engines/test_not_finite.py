"""Values that are not finite pass through the kernels of ``sparse`` as through torch, where no weight is removed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.networks import CLASSES, NETWORKS, examples, problem_of, problem_with
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines.registry import ENGINES
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
