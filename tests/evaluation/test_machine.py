"""A failure of the machine is no fact about a mask: it is told from one, recorded as used, and tried again on request."""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing import table
from torch import nn

import evoprune as ep
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.evaluation import FAILURE, MACHINE_FAILURE

# What the machine lacks, as the networks below find it.
STATE: dict[str, Any] = {"error": None}
OF_THE_MACHINE: dict[str, Callable[[], Exception]] = {
    "no memory": MemoryError,
    "no memory for numpy": lambda: np.exceptions.AxisError("x") if False else MemoryError("Unable to allocate 7 GiB"),
    "no memory for torch": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
    ),
    "no memory on a device": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "no thread": lambda: RuntimeError("can't start new thread"),
    "no room": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "no more files": lambda: OSError(errno.EMFILE, "Too many open files"),
}
OF_THE_MASK: dict[str, Callable[[], Exception]] = {
    "a value": lambda: ValueError("too thin"),
    "a shape": lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    "a division": ZeroDivisionError,
}


class Hungry(nn.Sequential):
    """Fails in training, where STATE says how, under masks that lack the first layer's first weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if STATE["error"] is not None and self.training and float(self[0].weight[0, 0].detach()) == 0:
            raise STATE["error"]()
        return super().forward(x)


@pytest.fixture(autouse=True)
def healthy() -> Iterator[None]:
    yield
    STATE["error"] = None


@pytest.fixture
def problem(tensors: ep.Data) -> ep.Problem:
    torch.manual_seed(0)
    network = Hungry(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return ep.Problem(model=network, data=tensors, recipe=ep.Recipe(epochs=3), ignore="STATE")


@pytest.mark.parametrize("kind", [*OF_THE_MACHINE, *OF_THE_MASK])
def test_failures_of_the_machine_are_told_from_those_of_a_mask(problem: ep.Problem, kind: str) -> None:
    STATE["error"] = (OF_THE_MACHINE | OF_THE_MASK)[kind]
    masks = [ep.random_mask(problem.shapes, 0.5, np.random.default_rng(seed)) for seed in range(8)]
    lacking = [not mask[0] for mask in masks]
    assert 0 < sum(lacking) < 8
    evaluations = evaluate_chunk(ep.Evaluator(problem, epochs=1).job, masks)
    expected = MACHINE_FAILURE if kind in OF_THE_MACHINE else FAILURE
    assert [e.status == expected for e in evaluations] == lacking
    assert [e.has_failed for e in evaluations] == lacking


def search(problem: ep.Problem, method: str, folder: Path, **options: Any) -> ep.Result:
    if method == "kstarts":
        return ep.k_starts(problem, k=6, sparsity=0.5, fitness_epochs=1, out=folder, engine="module", **options)
    steady = {"steady_state": True, "slots": 1} if method == "steady" else {}
    evolution = ep.Evolution(k=3, offspring=6, generations=3, **steady)
    return ep.evolve(
        problem, evolution, sparsity=0.5, fitness_epochs=1, out=folder, trained_bests=2, engine="module", **options
    )


def left(folder: Path) -> dict[str, Any]:
    """Returns what a run has left, timing aside."""
    tables = {path.name: table(path) for path in folder.glob("*.csv")}
    files = {name: (folder / name).read_bytes() for name in ("mask.npz", "model.safetensors")}
    result = json.loads((folder / "result.json").read_text()) | {"seconds": 0}
    return {**tables, **files, "result": result}


class Falters:
    """Lets the machine fail during the second generation after the first."""

    def on_generation(self, state: Any) -> None:
        STATE["error"] = MemoryError if state.gen == 2 else None


@pytest.mark.parametrize("method", ["kstarts", "evolve", "steady"])
def test_a_resume_equals_the_run_and_a_retry_the_undisturbed_one(problem: ep.Problem, tmp_path: Path, method: str) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    search(problem, method, whole)
    STATE["error"] = MemoryError if method == "kstarts" else None
    with pytest.warns(UserWarning, match=r"\d masks were not judged, because the machine failed"):
        search(problem, method, hurt, **({} if method == "kstarts" else {"callbacks": [Falters()]}))
    STATE["error"] = None
    used = left(hurt)
    assert used["result"]["machine_failures"] > 0
    assert used != left(whole)
    (hurt / "result.json").unlink()
    with pytest.warns(UserWarning, match="not judged"):
        search(problem, method, hurt)
    assert left(hurt) == used
    for _ in range(2):  # the second time nothing is left to do
        search(problem, method, hurt, retry_failed=True)
        assert left(hurt) == left(whole)


def test_where_the_machine_fails_all_masks_the_cure_is_said(problem: ep.Problem, tmp_path: Path) -> None:
    STATE["error"] = MemoryError
    run = {"k": 2, "sparsity": 0.98, "fitness_epochs": 1, "out": tmp_path / "run"}
    with pytest.raises(ep.RunError, match=r"MemoryError.*the machine's failure, not the masks': retry_failed=True"):
        ep.k_starts(problem, **run)
    STATE["error"] = None
    assert ep.k_starts(problem, **run, retry_failed=True).summary["machine_failures"] == 0


def test_a_machine_that_fails_in_the_final_training_ends_the_run_and_it_resumes(problem: ep.Problem, tmp_path: Path) -> None:
    seed = next(seed for seed in range(9) if not ep.baselines.random(problem, sparsity=0.5, seed=seed)[0])
    run = {"sparsity": 0.5, "seed": seed, "out": tmp_path / "run"}
    STATE["error"] = MemoryError
    with pytest.raises(ep.RunError, match=r"the machine failed in the final training of mask .* the same command resumes"):
        ep.baseline(problem, "random", **run)
    STATE["error"] = None
    assert ep.baseline(problem, "random", **run).summary["test_loss"] > 0
