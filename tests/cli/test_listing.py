"""``evoprune list``: a table of runs and comparisons, tolerant of whatever else is in the folders."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from evoprune.cli.listing import HEADS
from evoprune.runs import sums

SMALL = ("--model", "mlp", "--widths", "8", "--epochs", "1", "--sparsity", "0.5", "--quiet")
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(call: Callable[..., tuple[int, str, str]]) -> Call:
    def output_or_error(*arguments: object) -> tuple[int, str]:
        code, out, err = call(*arguments)
        return code, err if code else out

    return output_or_error


def states(call: Call, *arguments: object) -> dict[str, str]:
    code, out = call("list", *arguments, "--json")
    assert code == 0, out
    return {entry["folder"]: entry["state"] for entry in json.loads(out)["runs"]}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that all tests of this module begin with."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def runs(call: Call, kept: Path, tmp_path: Path) -> Path:
    """A folder with a run of each of two methods."""
    if not (kept / "runs").exists():
        assert call("kstarts", *SMALL, "--k", 2, "--fitness-epochs", 1, "--out", "runs/a")[0] == 0
        assert call("dense", *SMALL[:6], "--quiet", "--out", "runs/deeper/b")[0] == 0
        shutil.move(tmp_path / "runs", kept / "runs")
    return Path(shutil.copytree(kept / "runs", tmp_path / "runs"))


def test_a_table_has_a_line_for_each_run(call: Call, runs: Path) -> None:
    code, out = call("list")
    assert code == 0
    heads, _ruler, *rows, blank, last = out.splitlines()
    assert heads.split("  ")[0] == "folder"
    assert [head for head in HEADS.values() if head not in heads] == []
    assert blank == ""
    assert last == "runs: 2 runs and comparisons, 2 finished"
    result = json.loads((runs / "a" / "result.json").read_text())
    cells = [f"{100 * result['test_accuracy']:.2f}", f"{result['cost']:.3g}", "finished"]
    assert rows[0].split()[:4] == ["runs/a", "kstarts", "digits", "mlp"]
    assert rows[0].split()[5:8] == cells
    assert rows[1].split()[:5] == ["runs/deeper/b", "dense", "digits", "mlp", "0"]
    code, out = call("list", "runs", "runs/a", "--json")
    entries = json.loads(out)["runs"]
    assert [entry["folder"] for entry in entries] in (["runs/a", "runs/deeper/b"],)
    assert entries[0]["cost"] == result["cost"]
    assert call("list", "--quiet") == (0, "runs: 2 runs and comparisons, 2 finished\n")


def test_it_is_sorted_and_empty_cells_come_last(call: Call, runs: Path) -> None:
    shutil.copytree(runs / "a", runs / "c")
    (runs / "c" / "result.json").unlink()

    def order(*arguments: str) -> list[str]:
        return list(states(call, *arguments))

    assert order() == ["runs/a", "runs/c", "runs/deeper/b"]
    assert order("--reverse") == ["runs/deeper/b", "runs/c", "runs/a"]
    assert order("--sort", "method")[0] == "runs/deeper/b"
    accuracies = {name: json.loads((runs / name / "result.json").read_text())["test_accuracy"] for name in ("a", "deeper/b")}
    best = max(accuracies, key=lambda name: accuracies[name])
    assert order("--sort", "test_accuracy")[0] == f"runs/{best}"
    assert order("--sort", "test_accuracy")[-1] == "runs/c"
    assert order("--sort", "test_accuracy", "--reverse")[-1] == "runs/c"
    _code, out = call("list")
    assert "nan" not in out.lower()
    assert "None" not in out


def test_a_run_is_unfinished_running_or_damaged(call: Call, runs: Path) -> None:
    folder = runs / "a"
    intact = (folder / "result.json").read_bytes()
    (folder / "result.json").write_bytes(intact.replace(b'"kstarts"', b'"Kstarts"'))
    assert states(call)["runs/a"] == "damaged: result.json"
    (folder / "result.json").write_bytes(b"{")
    assert states(call)["runs/a"].startswith("damaged: cannot read ")
    (folder / "result.json").unlink()
    assert states(call)["runs/a"] == "unfinished, resumable: 2/2 masks"
    rows = (folder / "evaluations.csv").read_bytes().splitlines(keepends=True)
    (folder / "evaluations.csv").write_bytes(b"".join(rows[:2]))
    assert states(call)["runs/a"] == "unfinished, resumable: 1/2 masks"
    with FileLock(folder / ".lock"):
        assert states(call)["runs/a"] == "running: 1/2 masks"
    (folder / "evaluations.csv").write_bytes(rows[0] + rows[2])
    assert states(call)["runs/a"].startswith("damaged: row 1 of ")
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(config.replace(b'"k": 2', b'"k": 3'))
    assert states(call)["runs/a"].startswith("damaged: ")
    (folder / "config.json").write_bytes(config.replace(b'"schema": 5', b'"schema": 4'))
    assert states(call)["runs/a"].startswith("of an earlier version: ")
    assert "evoprune migrate" in states(call)["runs/a"]
    _code, out = call("list")
    assert max(map(len, out.splitlines())) < 200


def test_folders_of_others_are_passed_over(call: Call, tmp_path: Path) -> None:
    top = tmp_path / "runs"
    (top / "mine" / "notes").mkdir(parents=True)
    (top / "mine" / "config.json").write_text('{"architectures": ["Bert"]}')
    (top / "text" / "config.json").mkdir(parents=True)
    (top / ".hidden").mkdir()
    (top / "loop").symlink_to(top)
    os.mkfifo(top / "mine" / "evaluations.pipe")
    assert call("list") == (0, "runs: 0 runs and comparisons, 0 finished\n")
    assert call("list", "nowhere")[0] == 2


def test_nothing_is_written(call: Call, runs: Path) -> None:
    (runs / "a" / "result.json").unlink()
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in runs.rglob("*")}
    call("list")
    assert before == {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in runs.rglob("*")}


def test_hostile_names_are_escaped(call: Call, runs: Path) -> None:
    shutil.copytree(runs / "a", runs / "\x1b[2Jred\n")
    for name in ("\x1b]0;title\x07", "pipe"):
        other = runs / name
        other.mkdir()
        (other / "config.json").write_text(json.dumps({"schema": 5, "method": "\x1b[31m", "settings": {}}))
    os.mkfifo(runs / "pipe" / "evaluations.csv")
    code, out = call("list")
    assert code == 0
    assert all(character.isprintable() or character == "\n" for character in out)
    assert r"runs/\x1b[2Jred\n" in out
    assert "runs: 5 runs and comparisons, 3 finished" in out
    assert states(call)["runs/pipe"].startswith("damaged: ")
    assert call("list", "no\x1b[2J")[1].startswith(r"error: there is no folder no\x1b[2J")


@pytest.mark.parametrize("number", [10**400, "much"], ids=["huge", "text"])
def test_a_sparsity_that_is_none_is_left_out(number: object, call: Call, runs: Path) -> None:
    (runs / "a" / "result.json").unlink()
    config = sums.read_sealed(runs / "a" / "config.json") or {}
    sums.write_sealed(runs / "a" / "config.json", {**config, "settings": {**config["settings"], "sparsity": number}})
    code, out = call("list", "--json", "--sort", "sparsity")
    assert code == 0, out
    assert [entry["sparsity"] for entry in json.loads(out)["runs"]] == [0.0, None]
