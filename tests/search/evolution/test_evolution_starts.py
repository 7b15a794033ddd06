"""The starts of evolution, and the limits that end it."""

import os
import signal
from pathlib import Path

import pytest
from support.evolution import RISING, SPARSITY

import evoprune as ep
from evoprune.evaluation import brief
from evoprune.search.evolution.state import State


def test_it_starts_from_what_others_found(digits: ep.Problem, folder: Path, result: ep.Result) -> None:
    evolution = ep.Evolution(
        k=2, offspring=2, generations=0, start=("snip", "dissipate", str(folder / "mask.npz"), "random"), starts=5
    )
    found = ep.evolve(digits, evolution, sparsity=SPARSITY, trained_bests=0, controls=False)
    assert found.summary["evaluations"] == 5
    dissipated = ep.dissipate(digits, sparsity=SPARSITY, dissipate_epochs=3)
    first = [ep.baselines.snip(digits, sparsity=SPARSITY), dissipated.mask, result.mask]
    best = {mask.hash for mask in found.hall_of_fame}
    assert {mask.hash for mask in first} <= best
    epochs = 3 + 100 / len(digits.data.train[0]) + 5 * (1 + 500 / len(digits.data.train[0]))
    assert found.summary["search_epochs"] == pytest.approx(epochs)
    assert found.summary["multiply_adds"] > dissipated.summary["multiply_adds"]


def test_it_starts_from_a_run_folder(digits: ep.Problem, folder: Path, result: ep.Result) -> None:
    evolution = ep.Evolution(k=2, generations=0, start=(str(folder),))
    found = ep.evolve(digits, evolution, sparsity=SPARSITY, trained_bests=0)
    assert found.mask.hash == result.mask.hash
    assert found.summary["evaluations"] == len(result.hall_of_fame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": ("snipp",)}, "unknown start 'snipp'.*Did you mean 'snip'"),
        ({"start": ("FOLDER",)}, "keeps 984 weights; expected"),
        ({"k": 0}, "k is 0"),
        ({"start": ("dense",)}, "unknown start 'dense'"),
    ],
)
def test_bad_starts_are_refused_before_anything_is_written(
    digits: ep.Problem, folder: Path, result: ep.Result, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    options = {name: (str(folder),) if value == ("FOLDER",) else value for name, value in options.items()}
    with pytest.raises(ep.InputError, match=message.replace("984", str(result.mask.survivors))):
        ep.evolve(digits, ep.Evolution(**options), sparsity=0.9, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rising_generation_of_failures_is_an_error(digits: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> object:
        if arguments[1][0].sparsity > 0.6:
            raise ValueError("too sparse")
        return train_group(*arguments)

    train_group = brief._train_group
    monkeypatch.setattr(brief, "_train_group", fail)
    with pytest.raises(ep.RunError, match=r"all 3 evaluations failed.*too sparse"):
        ep.evolve(digits, RISING, sparsity=0.9)


def test_limits_end_it(digits: ep.Problem) -> None:
    few = ep.evolve(digits, ep.Evolution(k=2, evaluations=11), sparsity=SPARSITY, trained_bests=0)
    assert few.summary["evaluations"] <= 11
    assert few.summary["stopped_by"] == f"{few.summary['evaluations']} evaluations"
    short = ep.evolve(digits, ep.Evolution(k=2, seconds=1e-9), sparsity=SPARSITY, trained_bests=0)
    assert short.summary["generations"] == 0


def test_a_checkpoint_is_made_when_asked_for(digits: ep.Problem, tmp_path: Path) -> None:
    class Ask:
        """Removes the checkpoint, and asks for another one."""

        asked = 0

        def on_generation(self, state: State) -> None:
            newest = max((tmp_path / "run" / "checkpoint").glob("generation-*.json"))
            written = newest.read_bytes()
            newest.unlink()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert newest.read_bytes() == written
            self.asked += 1

    ask = Ask()
    before = signal.getsignal(signal.SIGUSR1)
    ep.evolve(
        digits, ep.Evolution(k=2, generations=2), sparsity=SPARSITY, trained_bests=0, callbacks=[ask], out=tmp_path / "run"
    )
    assert ask.asked == 3
    assert signal.getsignal(signal.SIGUSR1) == before


def test_starts_are_filled_up_with_distinct_ones(digits: ep.Problem, folder: Path, result: ep.Result) -> None:
    evolution = ep.Evolution(k=2, generations=0, start=(str(folder), "erk", "random"), starts=15)
    found = ep.evolve(digits, evolution, sparsity=SPARSITY, layer_densities="erk", trained_bests=0, controls=False)
    assert found.summary["evaluations"] == 15
