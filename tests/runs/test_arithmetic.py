"""A run continues with the arithmetic that it began with, or not at all."""

import json
from pathlib import Path

import pytest

import evoprune as ep
from evoprune.engines.registry import ENGINES, arithmetic, arithmetic_difference
from evoprune.runs import sums
from evoprune.search import execution

RUN = {"k": 2, "sparsity": 0.5, "fitness_epochs": 1, "controls": False}


@pytest.fixture
def folder(digits: ep.Problem, tmp_path: Path) -> Path:
    """A run that is not finished."""
    ep.k_starts(digits, **RUN, engine="sparse", out=tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def test_versions_are_recorded(folder: Path) -> None:
    recorded = json.loads((folder / "config.json").read_text())["execution"]
    assert recorded["arithmetic"] == arithmetic() == {name: engine.arithmetic for name, engine in ENGINES.items()}


def test_another_version_is_refused_and_force_starts_over(
    digits: ep.Problem, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "arithmetic", lambda: {**arithmetic(), "sparse": 99})
    with pytest.raises(ep.InputError, match=r"'sparse' has arithmetic of version 99, then arithmetic of version 3.*--force"):
        ep.k_starts(digits, **RUN, engine="sparse", out=folder)
    ep.k_starts(digits, **RUN, engine="sparse", out=folder, force=True)
    assert json.loads((folder / "config.json").read_text())["execution"]["arithmetic"]["sparse"] == 99


def test_a_run_from_before_versions_is_of_the_first(digits: ep.Problem, folder: Path) -> None:
    config = sums.read_sealed(folder / "config.json")
    assert config is not None
    del config["execution"]["arithmetic"]
    sums.write_sealed(folder / "config.json", config)
    with pytest.raises(ep.InputError, match="then arithmetic of version 1"):
        ep.k_starts(digits, **RUN, engine="sparse", out=folder)


def test_without_numba_a_run_of_its_kernels_is_refused(
    digits: ep.Problem, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.warns(UserWarning, match="NUMBA_DISABLE_JIT"), pytest.raises(ep.InputError, match="cannot be had here"):
        ep.k_starts(digits, **RUN, engine="sparse", out=folder)


def test_a_finished_run_and_another_engine_are_no_matter(
    digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ep.k_starts(digits, **RUN, engine="sparse", out=tmp_path / "run")
    monkeypatch.setattr(execution, "arithmetic", lambda: {**arithmetic(), "sparse": 99})
    ep.k_starts(digits, **RUN, engine="sparse", out=tmp_path / "run")
    assert not arithmetic_difference("module", {"sparse": 1}, {"sparse": 2, "module": 1})
    assert arithmetic_difference("auto", {"sparse": 1}, {"sparse": 2, "module": 1})
    assert arithmetic_difference("auto", {"sparse": 0}, {"sparse": 2})
