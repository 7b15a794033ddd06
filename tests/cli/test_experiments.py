"""Whole scripts, as users start them."""

import csv
import gzip
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.processes import finish, kill_group, python, python_anew, start
from support.tables import read_table

import evoprune as ep
from evoprune.figures import runs as plot
from evoprune.figures.of_run.dissipation import read_removals

pytestmark = pytest.mark.process

KSTARTS = "experiments/kstarts.py"
SMALL = ("--model", "mlp", "--widths", 24, 16, "--k", 6, "--epochs", 3, "--fitness-epochs", 1)
TIMING = {"seconds", "worker", "check"}
# killed launchers are in test_scoop.py
SCOOP = pytest.param(("-m", "evoprune.scoop", "-n", 2), id="scoop", marks=pytest.mark.slow)
LAUNCHERS = pytest.mark.parametrize("launcher", [pytest.param((), id="serial"), SCOOP])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "evaluations.csv").open(newline="") as file:
        found = [{key: value for key, value in row.items() if key not in TIMING} for row in csv.DictReader(file)]
    return sorted(found, key=lambda row: row["mask"])


def result(folder: Path) -> dict[str, object]:
    return {key: value for key, value in json.loads((folder / "result.json").read_text()).items() if key != "seconds"}


def assert_same(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    assert result(a) == result(b)
    for name in ("mask.npz", "history.csv", "model.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def kill_at_a_checkpoint(arguments: list[object], folder: Path) -> None:
    process = start([str(a) for a in arguments])
    while not list(folder.glob("checkpoint/*.json")):
        assert process.poll() is None, finish(process)
        time.sleep(0.002)
    kill_group(process)
    process.communicate()
    assert not (folder / "result.json").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    code, output = python(KSTARTS, *SMALL, "--out", folder)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("mnist") / "run"
    code, output = python(KSTARTS, *mnist_arguments(mnist_dir), "--out", folder, deadline=400)
    assert code == 0, output
    return folder


def mnist_arguments(mnist_dir: Path) -> list[object]:
    return ["--data", "mnist", "--data-dir", mnist_dir, "--model", "lenet-300-100", "--sparsity", 0.95, "--k", 8,
            "--epochs", 3, "--seed", 0]  # fmt: skip


def test_the_folder_is_complete(small: Path) -> None:
    expected = {"config.json", "environment.json", "generations.csv", "evaluations.csv", "history.csv", "result.json",
                "mask.npz", "model.safetensors", "checkpoint", "starts.png", "training.png", "layers.png"}  # fmt: skip
    assert expected <= {path.name for path in small.iterdir()}
    assert not list(small.rglob("*.tmp"))
    config = json.loads((small / "config.json").read_text())
    problem = ep.Problem.from_config(config["settings"]["problem"])
    assert problem.hash == config["problem_hash"]
    generations = read_table(small / "generations.csv")
    assert [row["gen"] for row in generations] == [0]
    assert generations[0]["max"] == result(small)["winner_fitness"]


def test_again_says_that_it_is_finished(small: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in small.iterdir() if path.is_file() and path.name != ".lock"}
    code, output = python(KSTARTS, *SMALL, "--out", small)
    assert code == 0, output
    assert "is finished already" in output
    assert before == {p.name: p.stat().st_mtime_ns for p in small.iterdir() if p.is_file() and p.name != ".lock"}


@pytest.mark.slow
def test_scoop_gives_the_same_bits(small: Path, tmp_path: Path) -> None:
    code, output = python_anew("-m", "evoprune.scoop", "-n", 2, KSTARTS, *SMALL, "--out", tmp_path / "run")
    assert code == 0, output
    assert_same(small, tmp_path / "run")


def kill_midway(arguments: list[object], folder: Path, finished: int) -> int:
    """Kills the run's process group once that many evaluations are on disk; returns how many there were in the end."""
    process = start([str(a) for a in arguments])
    path = folder / "evaluations.csv"
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text().count("\n") > finished):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    kill_group(process)
    process.communicate()
    return path.read_text().count("\n") - 1


@LAUNCHERS
def test_killed_and_resumed(tmp_path: Path, launcher: tuple[object, ...]) -> None:
    arguments = [*launcher, KSTARTS, "--k", 12, "--epochs", 4, "--fitness-epochs", 3]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    code, output = python(*arguments, "--out", whole)
    assert code == 0, output
    done = kill_midway([*arguments, "--out", folder], folder, 3)
    assert 3 <= done < 12
    code, output = python(*arguments, "--out", folder)
    assert code == 0, output
    assert_same(whole, folder)
    masks = [row["mask"] for row in rows(folder)]
    assert len(masks) == len(set(masks)) == 12


@pytest.mark.slow
def test_killed_in_the_final_training(tmp_path: Path) -> None:
    arguments = [KSTARTS, *SMALL[:-4], "--epochs", 60, "--fitness-epochs", 1]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert python(*arguments, "--out", whole)[0] == 0
    kill_at_a_checkpoint([*arguments, "--out", folder], folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("checkpoint/*.json")}
    assert python(*arguments, "--out", folder)[0] == 0
    assert_same(whole, folder)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


DISSIPATE = ["experiments/dissipate.py", "--epochs", 12, "--sparsity", 0.95]
COMBINE = [
    "experiments/combine.py",
    "--model",
    "mlp",
    "--k",
    12,
    "--epochs",
    12,
    "--fitness-epochs",
    6,
    "--select",
    "end",
    "--sparsity",
    0.95,
]


@pytest.mark.slow
def test_a_dissipating_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, output = python(*DISSIPATE, "--out", folder)
    assert code == 0, output
    facts = result(folder)
    assert (facts["method"], facts["survivors"]) == ("dissipate", round(0.05 * 50200))
    assert (folder / "dissipation.png").exists()
    assert not (folder / "starts.png").exists()
    survivors = [row["survivors"] for row in read_table(folder / "history.csv")]
    assert survivors[:6] == [removal["survivors"] for removal in read_removals(folder)]  # in the first half
    assert survivors[5:] == [facts["survivors"]] * 7
    code, output = python("plots/dissipation.py", folder, "--out", tmp_path / "figure.png")
    assert code == 0, output


@pytest.mark.slow
def test_another_method_forced_into_a_folder_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for arguments in ([*DISSIPATE, "--model", "mlp"], [KSTARTS, *SMALL, "--force"]):
        code, output = python(*arguments, "--out", folder)
        assert code == 0, output
    assert not (folder / "removals.json").exists()


@pytest.mark.slow
def test_a_fraction_lets_the_sparsity_emerge(tmp_path: Path) -> None:
    code, output = python(*DISSIPATE[:-2], "--fraction", 0.1, "--movement", "relative", "--out", tmp_path / "run")
    assert code == 0, output
    assert 0.05 < result(tmp_path / "run")["sparsity"] < 0.99


@pytest.mark.slow
@LAUNCHERS
def test_a_combination_killed_and_resumed(tmp_path: Path, launcher: tuple[object, ...]) -> None:
    arguments = [*launcher, *COMBINE]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    code, output = python(*COMBINE, "--out", whole)
    assert code == 0, output
    assert 3 <= kill_midway([*arguments, "--out", folder], folder, 3) < 12
    code, output = python(*arguments, "--out", folder)
    assert code == 0, output
    assert_same(whole, folder)
    assert (whole / "removals.json").read_bytes() == (folder / "removals.json").read_bytes()
    assert (folder / "dissipation.png").exists()
    assert (folder / "starts.png").exists()


SLOW_SCHEDULES = [pytest.param(name, marks=pytest.mark.slow) for name in ("gmp", "rigl", "set")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["granet", *SLOW_SCHEDULES])
def test_a_schedule_killed_and_resumed(tmp_path: Path, name: str) -> None:
    arguments = ["-m", "evoprune", name, "--sparsity", 0.95, "--epochs", 40, "--restart"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert python(*arguments, "--out", whole)[0] == 0
    kill_at_a_checkpoint([*arguments, "--out", folder], folder)
    assert python(*arguments, "--out", folder)[0] == 0
    assert result(whole) == result(folder)
    for file in ("mask.npz", "history.csv", "model.safetensors", "removals.json"):
        assert (whole / file).read_bytes() == (folder / file).read_bytes()


COURSES = ("experiments/evolve_gmp.py", "--sparsity", 0.95, "--epochs", 20, "--starts", 4, "--generations", 2)
ROUNDS = ("-m", "evoprune", "imp", "--sparsity", 0.95, "--rounds", 4)


@pytest.mark.slow
@LAUNCHERS
def test_courses_killed_and_resumed(tmp_path: Path, launcher: tuple[object, ...]) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert python(*COURSES, "--out", whole)[0] == 0
    kill_at_a_checkpoint([*launcher, *COURSES, "--out", folder], folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("checkpoint/*.json")}
    assert 1 <= len(kept) < 6
    code, output = python(*launcher, *COURSES, "--out", folder)
    assert code == 0, output
    assert_same(whole, folder)
    assert (whole / "genes.csv").read_bytes() == (folder / "genes.csv").read_bytes()
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


@pytest.mark.slow
def test_rounds_killed_and_resumed(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert python(*ROUNDS, "--out", whole)[0] == 0
    kill_at_a_checkpoint([*ROUNDS, "--out", folder], folder)
    assert python(*ROUNDS, "--out", folder)[0] == 0
    assert result(whole) == result(folder)
    for file in ("mask.npz", "history.csv", "model.safetensors"):
        assert (whole / file).read_bytes() == (folder / file).read_bytes()


def test_ctrl_c_ends_cleanly_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [KSTARTS, "--k", 12, "--epochs", 4, "--fitness-epochs", 3, "--out", folder]
    process = start([str(a) for a in arguments])
    while not (folder / "evaluations.csv").exists():
        assert process.poll() is None, finish(process)
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    code, output = finish(process, 30)
    assert code == 130, output
    assert "the same command resumes" in output
    assert "Traceback" not in output
    code, output = python(*arguments)
    assert code == 0, output
    assert len(rows(folder)) == 12


def test_a_bad_value_ends_with_one_message(tmp_path: Path) -> None:
    code, output = python(KSTARTS, "--out", "/dev/null/run", deadline=60)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2, output
    assert len(errors) == 1
    assert "cannot write to /dev/null/run" in errors[0]
    assert "Traceback" not in output


def test_a_truncated_file_ends_with_one_message(tmp_path: Path) -> None:
    for stem, shape in (("train", (60, 28, 28)), ("t10k", (20, 28, 28))):
        images = bytes([0, 0, 8, 3]) + np.array(shape, ">u4").tobytes() + bytes(int(np.prod(shape)))
        labels = bytes([0, 0, 8, 1]) + np.array(shape[:1], ">u4").tobytes() + bytes(i % 10 for i in range(shape[0]))
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images)[:-20])
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    code, output = python(KSTARTS, "--data", "mnist", "--data-dir", tmp_path, "--out", tmp_path / "run", deadline=60)
    assert code == 2, output
    assert "train-images-idx3-ubyte.gz is truncated or damaged" in output
    assert "Traceback" not in output


def test_another_runs_folder_is_refused(small: Path) -> None:
    code, output = python(KSTARTS, *SMALL, "--out", small, "--sparsity", 0.5, deadline=60)
    assert code == 2, output
    assert "sparsity was 0.9, now 0.5" in output


def test_divergence_ends_with_the_evaluations_recorded(tmp_path: Path) -> None:
    code, output = python(KSTARTS, *SMALL, "--lr", "1e9", "--out", tmp_path / "run", deadline=60)
    assert code == 1, output
    assert "all 6 evaluations failed" in output
    assert "Traceback" not in output
    assert [row["status"] for row in rows(tmp_path / "run")] == ["failed"] * 6


@pytest.mark.slow
def test_figures_from_a_run_folder(small: Path, tmp_path: Path) -> None:
    for name in plot.figures_of(small):
        code, output = python(f"plots/{name}.py", small, "--out", tmp_path / f"{name}.png")
        assert code == 0, output
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    code, output = python("plots/dissipation.py", small)
    assert code == 2
    assert "holds no removals" in output
    code, output = python("plots/starts.py", tmp_path / "nowhere")
    assert code == 2
    assert "no finished run" in output


def test_help_explains_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, output = python(KSTARTS, "--help")
    assert code == 0
    for word in ("--sparsity", "--fitness-epochs", "default: 0.9", "Fraction of the prunable weights to remove"):
        assert word in output


@pytest.mark.mnist
def test_kstarts_on_mnist(mnist: Path, mnist_dir: Path) -> None:
    facts = result(mnist)
    assert facts["survivors"] == round(0.05 * 266200) == ep.Mask.load(mnist / "mask.npz").survivors
    problem = ep.Problem(model="lenet-300-100", data="mnist", data_dir=mnist_dir, seed=0)
    state = load_file(mnist / "model.safetensors")
    for name, layer in ep.Mask.load(mnist / "mask.npz", problem).layers.items():
        assert not state[name][torch.from_numpy(~layer)].any()
    network = problem.network().eval()
    network.load_state_dict(state)
    x, y = problem.data.test
    with torch.no_grad():
        assert float((network(x).argmax(1) == y).double().mean()) == facts["test_accuracy"] > 0.9


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_kstarts_on_mnist_under_scoop(mnist: Path, mnist_dir: Path, tmp_path: Path, n: int) -> None:
    folder = tmp_path / "run"
    code, output = python_anew(
        "-m", "evoprune.scoop", "-n", n, KSTARTS, *mnist_arguments(mnist_dir), "--out", folder, deadline=500
    )
    assert code == 0, output
    assert_same(mnist, folder)
    with (folder / "evaluations.csv").open(newline="") as file:
        assert len({row["worker"] for row in csv.DictReader(file)}) == n


@pytest.mark.slow
def test_a_winner_no_better_than_chance_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, output = python(KSTARTS, "--lr", 4, "--out", folder)
    assert code == 0, output
    assert "the winner is no better than chance" in output
    facts = result(folder)
    assert facts["winner_status"] == "no better than chance"
    assert facts["no_better_than_chance"] + facts["failed"] == 16
