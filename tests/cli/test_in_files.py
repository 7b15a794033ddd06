"""Experiments on a network and data of a user's file, as users start them."""

import json
from pathlib import Path

import pytest
from support.comparing import assert_same
from support.own import MINE, write
from support.processes import kill_group, python, python_anew, start, wait_for

from evoprune.comparison.frames import read_cells

pytestmark = pytest.mark.process

KSTARTS = ("--k", 12, "--epochs", 12, "--fitness-epochs", 10, "--sparsity", 0.5, "--engine", "module")
WITHOUT = ("bests.csv", "hall_of_fame")


def kstarts(file: Path, folder: Path) -> list[object]:
    names = ["--model", f"{file}:make", "--data", f"{file}:points"]
    return ["experiments/kstarts.py", *names, *KSTARTS, "--out", folder]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    code, output = python(*kstarts(write(folder), folder / "run"))
    assert code == 0, output
    assert json.loads((folder / "run" / "result.json").read_text())["model"] == "mine.py:make"
    assert str(folder) not in (folder / "run" / "config.json").read_text()
    return folder / "run"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on", ["serial", "pool:2", pytest.param("scoop", marks=pytest.mark.slow)])
def test_killed_and_resumed_from_another_folder(whole: Path, tmp_path: Path, on: str) -> None:
    folder, file = tmp_path / "run", write(tmp_path / "a")
    process = start([str(a) for a in kstarts(file, folder)])
    rows = folder / "evaluations.csv"
    wait_for(process, lambda: rows.exists() and rows.read_text().count("\n") > 3)
    kill_group(process)
    process.communicate()
    assert rows.read_text().count("\n") < 12
    file.rename(write(tmp_path / "b"))
    command = kstarts(tmp_path / "b" / "mine.py", folder)
    launcher = ["-m", "evoprune.scoop", "-n", 2] if on == "scoop" else []
    code, output = python_anew(*launcher, *command, "--workers", on)
    assert code == 0, output
    assert_same(whole, folder, WITHOUT)
    write(tmp_path / "b", MINE.replace(".relu()", ".tanh()"))
    code, output = python(*command)
    assert code == 2, output
    assert "was started on another problem; these have changed: network, load mine.py" in output


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["pool:2", pytest.param("dask:2", marks=pytest.mark.slow)])
def test_workers_compare_a_file_as_one_process_does(tmp_path: Path, workers: str) -> None:
    if workers.startswith("dask"):
        pytest.importorskip("distributed", reason="Dask is an extra: pip install 'evoprune[dask]'")
    file = write(tmp_path)
    command = ["experiments/compare.py", "--model", f"{file}:make", "--data", f"{file}:points", "--methods", "erk", "snip"]
    more = ["--epochs", 2, "--sparsities", 0.5, "--seeds", 2, "--engine", "module"]
    for name in ("serial", workers):
        code, output = python_anew(*command, *more, "--workers", name, "--out", tmp_path / name)
        assert code == 0, output
    tables = [read_cells(tmp_path / name / "cells.csv") for name in ("serial", workers)]
    alone, spread = (t.drop(columns="seconds").sort_values(["method", "seed"], ignore_index=True) for t in tables)
    assert alone.equals(spread)
    assert len(alone) == 4
    for config in (tmp_path / "serial").glob("cells/*/config.json"):
        other = tmp_path / workers / "cells" / config.parent.name / "config.json"
        hashes = [json.loads(path.read_text())["problem_hash"] for path in (config, other)]
        assert hashes[0] == hashes[1]
