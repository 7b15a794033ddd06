"""Networks that an engine serves as the reference does, or refuses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.engines import masks_of, terms
from torch import Tensor, nn

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.job import BriefTraining, Job

POPULATIONS = sorted(name for name, engine in ENGINES.items() if engine.capacity is None)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Sequential(nn.Linear(6, 8), nn.Softmax(dim=1), nn.Linear(8, 3)),
            r"1 \(Softmax\) is of a kind that the engine 'sparse' does not know",
        ),
        (nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(8, 3)), r"1 \(GroupNorm\)"),
        (
            nn.Sequential(
                nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 2, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(8, 3)
            ),
            "circular",
        ),
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


@pytest.mark.sampled(6)
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
        with pytest.raises(
            ep.InputError, match=r"in evaluation mode, on 180 examples of the validation set|torch.fx cannot trace"
        ):
            require("sparse", problem)
        with pytest.raises(ep.InputError):  # found once, and known from then on
            require("sparse", problem)
