"""Deterministic settings of a GPU: set around training, restored, recorded, and checked before a search."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.elsewhere import cuda_elsewhere
from torch import nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.training.determinism import call_deterministically, deterministic, settings_now

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
SET = {
    "deterministic_algorithms": True,
    "cudnn_deterministic": True,
    "cudnn_benchmark": False,
    "cudnn_tf32": False,
    "matmul_tf32": False,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
OPTIONS = {"k": 2, "sparsity": 0.5, "fitness_epochs": 1, "engine": "module", "controls": False}


@pytest.fixture(autouse=True)
def users_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    own = cudnn.benchmark, products.allow_tf32
    cudnn.benchmark, products.allow_tf32 = True, True
    before = settings_now("cuda")
    try:
        yield
        after = settings_now("cuda")
    finally:
        cudnn.benchmark, products.allow_tf32 = own
    assert {**after, "CUBLAS_WORKSPACE_CONFIG": None} == before  # the variable stays for the process


def problem_on(device: str, *, bends: bool = False, tracked: list[object] | None = None) -> ep.Problem:
    class Net(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if tracked is not None:
                tracked.append(torch.are_deterministic_algorithms_enabled())
            if bends and torch.are_deterministic_algorithms_enabled():
                raise RuntimeError("bend_cuda does not have a deterministic implementation, but you set it.\nMore follows.")
            return super().forward(x)

    data = ep.Data(train=(X, (X[:, 0] > 0).long()))
    return ep.Problem(Net(4, 2), data, ep.Recipe(epochs=1, batch_size=16), device=device, identity="bending", ignore=())


def test_the_settings_are_set_and_restored() -> None:
    before = settings_now("cuda:1")
    with pytest.raises(KeyError), deterministic("cuda:1"):
        assert {**settings_now("cuda:1"), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"} == SET
        raise KeyError
    assert settings_now("cuda:1") == before
    assert call_deterministically("cuda", True, settings_now, "cuda")["cudnn_deterministic"] is True


def test_on_the_cpu_and_where_it_is_not_wanted_nothing_is_set() -> None:
    before = settings_now("cuda")
    for device, wanted in (("cpu", True), ("cuda", False)):
        with deterministic(device, wanted):
            assert settings_now("cuda") == before
    assert settings_now("cpu") == {}
    assert call_deterministically("cpu", True, settings_now, "cuda") == before


@pytest.mark.parametrize("wanted", [True, False])
def test_evaluations_and_trainings_are_deterministic_if_it_is_wanted(wanted: bool) -> None:
    tracked: list[object] = []
    with cuda_elsewhere():
        problem = problem_on("cuda", tracked=tracked)
        job = ep.Evaluator(problem, epochs=1, deterministic=wanted).job
        tracked.clear()
        evaluate_chunk(job, [ep.random_mask(problem.shapes, 0.5, np.random.default_rng(0))])
        assert set(tracked) == {wanted}
        tracked.clear()
        ep.k_starts(problem, **OPTIONS, deterministic=wanted)
        assert wanted in tracked[-3:]
        assert not wanted or all(tracked[-3:])


def test_a_network_without_a_deterministic_algorithm_is_refused_before_the_search(tmp_path: Path) -> None:
    with cuda_elsewhere():
        problem = problem_on("cuda", bends=True)
        with pytest.raises(InputError, match=r"on cuda: bend_cuda does not .* it\. Expected .*--no-deterministic"):
            ep.k_starts(problem, **OPTIONS, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        ep.k_starts(problem, **OPTIONS, out=tmp_path / "run", deterministic=False)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert config["execution"]["deterministic"] is False
        ep.k_starts(problem, **OPTIONS, out=tmp_path / "run")  # keeps its own choice
    assert not ep.k_starts(problem_on("cpu", bends=True), **OPTIONS).summary.get("failed")


def test_the_settings_are_recorded_on_a_gpu_alone(tmp_path: Path) -> None:
    ep.k_starts(problem_on("cpu"), **OPTIONS, out=tmp_path / "cpu")
    with cuda_elsewhere():
        ep.k_starts(problem_on("cuda"), **OPTIONS, out=tmp_path / "cuda")
    here, there = (json.loads((tmp_path / name / "environment.json").read_text()) for name in ("cpu", "cuda"))
    assert there.pop("gpu_settings") == SET
    assert (here.pop("device"), there.pop("device")) == ("cpu", "a GPU elsewhere")
    assert set(here) == set(there)
    configs = [json.loads((tmp_path / name / "config.json").read_text())["execution"] for name in ("cpu", "cuda")]
    assert {**configs[0], "deterministic": True} == configs[1]


def test_a_value_of_the_users_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with cuda_elsewhere():
        problem_on("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    problem_on("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_devices_that_cannot_be_seeded_are_refused() -> None:
    for device in ("mps", "meta", "cuda" if not torch.cuda.is_available() else "xpu", "nonsense"):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
            problem_on(device)
