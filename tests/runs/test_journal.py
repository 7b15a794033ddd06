import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.evaluation.evaluation import Evaluation
from evoprune.runs.folder import SOFTWARE, clear
from evoprune.runs.journal import Journal, Memory, open_journal
from evoprune.runs.run import Run

EVALUATION = Evaluation("a" * 64, 1, {"loss": -0.25}, 0.25, 0.5, "ok", "", 1e6, "host:1", 0.1)
METHODS = [name for name, member in vars(Journal).items() if inspect.isfunction(member) and not name.startswith("_")]


def place(out: Path | None, force: bool = False) -> Any:
    return SimpleNamespace(out=out, force=force, retry_failed=False)


def use(journal: Journal) -> list[object]:
    """Returns what a search sees of a journal that it uses in every way, the first time."""
    seen: list[object] = [journal.finished, dict(journal.divisors), journal.execution["threads"]]
    seen += [journal.recorded(0), journal.arrivals(0), journal.known_before(1), journal.load_state(lambda *content: content)]
    facts, tensors = journal.step("mask", lambda: ({"loss": math.inf, "epochs": (1, 2)}, {"bits": torch.ones(2)}))
    seen += [facts, tensors["bits"].tolist(), journal.keep("slots", lambda: 4)]
    journal.record(0, [EVALUATION])
    journal.calibrated({"loss": 2.0})
    journal.write_table("generations.csv", ["gen"], [{"gen": 0}])
    journal.save_state(1, {"gen": 1}, {})
    return [*seen, dict(journal.divisors)]


def test_a_search_sees_no_difference(tmp_path: Path, digits: ep.Problem) -> None:
    with open_journal(place(tmp_path / "run"), "kstarts", {}, {"threads": 1}).of(digits) as run:
        on_disk = use(run)
        assert isinstance(run, Run)
        assert run.load_state(lambda facts, _: facts) == {"gen": 1}
        assert run.known_before(1) == {EVALUATION.mask: EVALUATION}
    with open_journal(place(None), "kstarts", {}, {"threads": 1}).of(digits) as memory:
        in_memory = use(memory)
        assert isinstance(memory, Memory)
        assert memory.folder is None
    assert in_memory == on_disk
    assert on_disk[7] == {"loss": None, "epochs": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", METHODS)
def test_both_journals_have_the_same_methods(name: str) -> None:
    def parameters(owner: type) -> list[str]:
        return list(inspect.signature(getattr(owner, name)).parameters)

    assert parameters(Run) == parameters(Memory) == parameters(Journal)


def test_another_run_is_refused(tmp_path: Path, digits: ep.Problem) -> None:
    with open_journal(place(tmp_path), "kstarts", {"k": 2}, {}).of(digits):
        pass
    with pytest.raises(ep.InputError, match="k was 2, now 3"):
        open_journal(place(tmp_path), "kstarts", {"k": 3}, {})
    with open_journal(place(tmp_path, force=True), "kstarts", {"k": 3}, {}).of(digits) as run:
        assert run.folder == tmp_path


def test_a_mask_is_kept_for_the_user(tmp_path: Path, digits: ep.Problem) -> None:
    mask = ep.random_mask(digits.shapes, 0.9, np.random.default_rng(0))
    with open_journal(place(tmp_path), "train", {}, {}).of(digits) as run:
        path = run.keep_mask(mask)
    assert path is not None
    assert ep.Mask.load(path, digits) == mask
    assert open_journal(place(None), "train", {}, {}).keep_mask(mask) is None


def png(software: str | None) -> Callable[[Path], None]:
    def draw(path: Path) -> None:
        figure = pytest.importorskip("matplotlib.figure").Figure()
        figure.savefig(path, metadata=None if software is None else {"Software": software})

    return draw


def test_a_run_clears_its_own_figures_and_files_only(tmp_path: Path) -> None:
    files: dict[str, Callable[[Path], object]] = {
        "registered-by-a-user.png": png(SOFTWARE["Software"]),
        "mine.png": png(None),
        "empty.png": Path.touch,
        "folder.png": Path.mkdir,
        "notes.csv": Path.touch,
        "evaluations.csv": Path.touch,
        "config.json": Path.touch,
        "checkpoint": Path.mkdir,
    }
    for name, make in files.items():
        make(tmp_path / name)
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", "empty.png", "folder.png", "notes.csv"}
