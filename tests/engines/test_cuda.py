"""On a real GPU: engines alike, the same seed the same bits, and runs that change the device. Skipped without one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.evaluation import OK
from evoprune.runs import records
from evoprune.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, or this build of torch has no CUDA")

X = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Y = (X[:, 0].mean((1, 2)) > 0).long() + (X[:, 1].mean((1, 2)) > 0).long()
OPTIONS = {"k": 3, "sparsity": 0.5, "fitness_epochs": 1, "controls": False}


def problem_on(device: str) -> ep.Problem:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten(),
        nn.Linear(128, 3),
    )  # fmt: skip
    return ep.Problem(net, ep.Data(train=(X, Y)), ep.Recipe(epochs=2, batch_size=16), device=device)


def losses(problem: ep.Problem, engine: str) -> list[float]:
    rng = np.random.default_rng(0)
    masks = [ep.random_mask(problem.shapes, 0.5, rng) for _ in range(3)]
    evaluations = ep.Evaluator(problem, epochs=1, engine=engine).evaluate(masks)
    assert {evaluation.status for evaluation in evaluations} <= {OK, "no better than chance"}
    return [evaluation.validation_loss for evaluation in evaluations]


def test_stacked_trains_as_module_does() -> None:
    assert np.allclose(losses(problem_on("cuda"), "stacked"), losses(problem_on("cuda"), "module"), rtol=1e-3)


def test_a_gpu_trains_as_the_cpu_does_without_noise() -> None:
    data = ep.Data(train=(X.flatten(1), Y))
    found = []
    for device in ("cpu", "cuda"):
        problem = ep.Problem("mlp", data, ep.Recipe(epochs=1, batch_size=16), widths=(16,), device=device)
        found.append(losses(problem, "module"))
    assert np.allclose(*found, rtol=1e-3)


@pytest.mark.parametrize("engine", ["module", "stacked"])
def test_the_same_seed_gives_the_same_bits(engine: str) -> None:
    states = []
    for _ in range(2):
        torch.rand(3, device="cuda")  # the users own draws change nothing
        result = ep.k_starts(problem_on("cuda"), engine=engine, **OPTIONS)
        states.append({name: tensor.cpu() for name, tensor in result.model.state_dict().items()})
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_device_is_not_in_the_hash_and_the_generators_are_restored() -> None:
    before = torch.cuda.get_rng_state()
    here, there = problem_on("cpu"), problem_on("cuda")
    assert here.hash == there.hash
    torch.cuda.set_rng_state(before)  # torch.manual_seed in problem_on
    population = ENGINES["module"].build(there, [ep.random_mask(there.shapes, 0.5, np.random.default_rng(0))])
    train(population, there, 1, 0)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_run_of_the_cpu_is_resumed_on_a_gpu(tmp_path: Path) -> None:
    ep.k_starts(problem_on("cpu"), out=tmp_path / "run", engine="module", **OPTIONS)
    for name in ("result.json", "mask.npz"):
        (tmp_path / "run" / name).unlink()
    for path in (tmp_path / "run" / "checkpoint").glob("*"):
        path.unlink() if path.is_file() else None
    with pytest.warns(UserWarning, match="begun on the device cpu and continues on cuda"):
        result = ep.k_starts(problem_on("cuda"), out=tmp_path / "run", engine="module", **OPTIONS)
    assert np.isfinite(result.summary["test_loss"])
    environment = records.read_json(tmp_path / "run" / "environment.json")
    assert environment is not None
    assert environment["gpu_settings"]["cudnn_deterministic"] is True
    assert environment["earlier"][0]["device"] == "cpu"
