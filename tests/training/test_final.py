"""Final trainings that diverge."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import python
from torch import nn

import evoprune as ep
from evoprune.errors import RunError
from evoprune.training.final import FinalTraining, Training, train_fully


def problem(lr: float = 100.0) -> ep.Problem:
    """By default its first epoch is finite, and its second is not."""
    return ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=ep.Recipe(epochs=3, lr=lr), seed=0)


# the learning rates at which they survive the search, if there is one
RATES = {"combine": 50.0, "baseline": 1000.0}
METHODS: dict[str, Callable[..., ep.Result]] = {
    "kstarts": lambda p, **o: ep.k_starts(p, k=4, fitness="magnitude", fitness_epochs=1, **o),
    "kstarts restart": lambda p, **o: ep.k_starts(p, k=4, fitness="magnitude", fitness_epochs=1, restart=True, **o),
    "combine": lambda p, **o: ep.combine(p, k=4, fitness="magnitude", fitness_epochs=1, dissipate_epochs=2, **o),
    "evolve": lambda p, **o: ep.evolve(p, ep.Evolution(k=4, generations=1), fitness="magnitude", **o),
    "dissipate": lambda p, **o: ep.dissipate(p, dissipate_epochs=2, **o),
    "dissipate restart": lambda p, **o: ep.dissipate(p, dissipate_epochs=2, restart=True, **o),
    "baseline": lambda p, **o: ep.baseline(p, "random", **o),
}


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning")
@pytest.mark.parametrize("name", METHODS)
def test_a_winner_that_diverges_ends_with_an_error_and_keeps_what_was_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, lr = METHODS[name], RATES.get(name, 100.0)
    diverged = r"final training of the winner, mask \w{12}, diverged \(validation loss, weights.* not finite since epoch \d"
    with pytest.raises(RunError, match=diverged) as error:
        method(problem(lr), out=tmp_path / "run")
    assert f"with lr {lr:g}; lower lr" in str(error.value)
    assert str(tmp_path / "run") in str(error.value)
    assert not (tmp_path / "run/result.json").exists()
    masks = list((tmp_path / "run/checkpoint").glob("*.npz"))
    assert any(str(path) in str(error.value) and ep.Mask.load(path, problem()).hash == path.stem for path in masks)

    def no_training(*arguments: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("evoprune.search.final.train_together", no_training)
    monkeypatch.setattr("evoprune.search.final.train_from_w0", no_training)
    with pytest.raises(RunError) as again:
        method(problem(lr), out=tmp_path / "run")
    assert str(again.value) == str(error.value)


@pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning")
def test_without_a_folder_the_cure_is_one() -> None:
    with pytest.raises(RunError, match=r"lower lr\. Nothing is recorded; with out="):
        ep.baseline(problem(1000.0), "random")


def test_the_evaluations_before_are_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="or choose by the fitness loss"):
        METHODS["kstarts"](problem(), out=tmp_path)
    assert len((tmp_path / "evaluations.csv").read_text().splitlines()) == 5


@pytest.mark.process
def test_a_script_ends_with_status_1_and_one_line(tmp_path: Path) -> None:
    options = ("--dissipate-epochs", 2, "--model", "mlp", "--widths", 24, 16, "--epochs", 3, "--lr", 100)
    code, output = python("experiments/dissipate.py", *options, "--out", tmp_path / "run", deadline=60)
    assert code == 1, output
    assert "error: the final training of the winner" in output
    assert "Traceback" not in output


def test_a_control_that_diverges_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def train(p: ep.Problem, masks: Sequence[ep.Mask], training: Training) -> list[FinalTraining]:
        trained.extend(mask.hash for mask in masks)
        return [train_fully(p if mask.hash == trained[0] else problem(), mask, training) for mask in masks]

    monkeypatch.setattr("evoprune.search.final.train_together", train)
    result = ep.k_starts(problem(0.05), k=6, fitness="magnitude", fitness_epochs=1, out=tmp_path)
    assert len(trained) > 1
    assert math.isfinite(result.summary["test_loss"])
    controls = json.loads((tmp_path / "result.json").read_text())["controls"]
    assert {name for name, facts in controls.items() if facts["test_loss"] is None} == {
        name for name, facts in controls.items() if facts["mask"] != result.mask.hash
    }


def test_rows_of_bests_that_diverge_stay_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoprune.search.course.train_chosen", lambda session, chosen, plan: _finite(session.problem, chosen))
    result = ep.evolve(problem(), ep.Evolution(k=4, generations=1), fitness="magnitude", restart=True, out=tmp_path)
    assert result.bests
    assert all(row["validation_loss"] is None for row in result.bests)


def _finite(p: ep.Problem, chosen: dict[str, ep.Mask]) -> dict[str, Any]:
    return {role: train_fully(problem(0.05), mask, Training("module", 0)) for role, mask in chosen.items()}


def test_dissipating_for_the_first_masks_that_diverges_is_an_error() -> None:
    with pytest.raises(RunError, match="training 'dissipate' for the first masks diverged"):
        ep.evolve(problem(), ep.Evolution(k=4, generations=1, start=("random", "dissipate")), fitness="magnitude")


def test_infinite_buffers_and_one_epoch_in_between_are_no_divergence() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("shut", torch.tensor([0.0, -torch.inf]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    data = ep.Data(train=(x, torch.arange(60) % 3))
    p = ep.Problem(Masked(), data, ep.Recipe(epochs=2))
    training = train_fully(p, ep.Mask(np.ones(18, bool), p.shapes), Training("module", 0))
    assert training.divergence() == ""
    training.history[0]["train_loss"] = None
    assert training.divergence() == ""
    training.history[1]["validation_loss"] = None
    assert training.divergence() == "validation loss not finite since epoch 1 of 2"
