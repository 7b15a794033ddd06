"""The script of evolution, as users start it, and kill it."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.comparing import assert_same, table
from support.processes import finish, kill_group, python, python_anew, start, wait_for
from support.tables import read_table

from evoprune.figures import runs as plot
from evoprune.runs import records

pytestmark = pytest.mark.process

EVOLVE = "experiments/evolve.py"
SMALL = ("--model", "mlp", "--epochs", 4, "--fitness-epochs", 3, "--k", 4, "--generations", 14, "--trained-bests", 3)
SCOOP = ("-m", "evoprune.scoop", "-n", 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evolve") / "run"
    code, output = python(EVOLVE, *SMALL, "--out", folder)
    assert code == 0, output
    return folder


def generations_done(folder: Path) -> int:
    return len(table(folder / "generations.csv")) if (folder / "generations.csv").exists() else 0


def assert_same_figures(a: Path, b: Path) -> None:
    assert plot.figures_of(a) == plot.figures_of(b)
    for name in plot.figures_of(a):
        assert (a / f"{name}.png").read_bytes() == (b / f"{name}.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [pytest.param((), id="serial"), pytest.param(SCOOP, id="scoop", marks=pytest.mark.slow)])
def test_killed_again_and_again(whole: Path, tmp_path: Path, launcher: tuple[object, ...]) -> None:
    kill_at_random(whole, tmp_path / "run", launcher, SMALL, kills=3)


INHERIT = (
    *("--model", "mlp", "--epochs", 24, "--fitness-epochs", 1, "--k", 2, "--offspring", 6, "--inherit"),
    *("--first-sparsity", 0.5, "--drop", "magnitude"),
)  # fmt: skip


def test_inherited_weights_killed_twice(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert python(EVOLVE, *INHERIT, "--out", whole)[0] == 0
    kill_at_random(whole, tmp_path / "run", (), INHERIT, 2, ("bests.csv",))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["pool:2", pytest.param("dask:2", marks=pytest.mark.slow)])
def test_inherited_weights_on_other_workers(tmp_path: Path, workers: str) -> None:
    short = (*INHERIT, "--epochs", 6)
    for name, kind in (("whole", "serial"), ("run", workers)):
        code, output = python(EVOLVE, *short, "--workers", kind, "--out", tmp_path / name)
        assert code == 0, output
    assert_same(tmp_path / "whole", tmp_path / "run", ("bests.csv",))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), SCOOP], ids=["serial", "scoop"])
def test_inherited_weights_killed_at_ten_random_moments(tmp_path: Path, launcher: tuple[object, ...]) -> None:
    whole, longer = tmp_path / "whole", (*INHERIT, "--epochs", 150, "--generations", 120)
    assert python(EVOLVE, *longer, "--out", whole)[0] == 0
    kill_at_random(whole, tmp_path / "run", launcher, longer, 10, ("bests.csv",))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), SCOOP], ids=["serial", "scoop"])
def test_killed_at_ten_random_moments(tmp_path: Path, launcher: tuple[object, ...]) -> None:
    whole = tmp_path / "whole"
    arguments = (*SMALL, "--generations", 30, "--mutation", "informed", "density", "swap", "--fitness-epochs", 4)
    assert python(EVOLVE, *arguments, "--out", whole, deadline=600)[0] == 0
    kill_at_random(whole, tmp_path / "run", launcher, arguments, kills=10)


def kill_at_random(
    whole: Path,
    folder: Path,
    launcher: tuple[object, ...],
    arguments: tuple[object, ...],
    kills: int,
    without: tuple[str, ...] = (),
) -> None:
    """Kills the run so many times, each a random while after it has gone on, and lets it end."""
    rng = random.Random(kills)
    command = [str(a) for a in [*launcher, EVOLVE, *arguments, "--out", folder]]
    evaluations = folder / "evaluations.csv"
    killed = 0
    while killed < kills:
        before = evaluations.read_bytes() if evaluations.exists() else b""
        process = start(command)
        wait_for(process, lambda before=before: evaluations.exists() and evaluations.read_bytes() != before)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, f"it ended after {killed} kills, before the next: give it more to do"
        kill_group(process)
        process.communicate()
        killed += 1
        assert not (folder / "result.json").exists()
    code, output = finish(start(command))
    assert code == 0, output
    assert_same(whole, folder, without)
    assert_same_figures(whole, folder)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_end_it_saves_and_resumes(whole: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    folder = tmp_path / "run"
    command = [str(a) for a in [EVOLVE, *SMALL, "--out", folder]]
    process = start(command)
    wait_for(process, lambda: generations_done(folder) >= 2)
    os.kill(process.pid, number)
    code, output = finish(process, 30)
    assert code == status, output
    assert "the same command resumes" in output
    assert "Traceback" not in output
    assert list((folder / "checkpoint").glob("generation-*.json"))
    assert not (folder / "result.json").exists()
    for path in plot.save_figures(folder):  # of a run that is not finished
        assert path.stem in {"fitness", "diversity", "survivors"}
    code, output = python(*command)
    assert code == 0, output
    assert_same(whole, folder)


def test_scoop_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    code, output = python_anew(*SCOOP, EVOLVE, *SMALL, "--out", tmp_path / "run")
    assert code == 0, output
    assert_same(whole, tmp_path / "run")
    assert_same_figures(whole, tmp_path / "run")


@pytest.mark.slow
def test_defaults_improve_and_leave_the_figures(tmp_path: Path) -> None:
    code, output = python(EVOLVE, "--out", tmp_path / "run", folder=None, deadline=120)
    assert code == 0, output
    rows = read_table(tmp_path / "run" / "generations.csv")
    assert rows[-1]["best"] > rows[0]["best"]
    assert rows[-1]["loss_mean"] > rows[0]["loss_mean"]
    for name in ("fitness", "finals", "diversity", "survivors", "training", "layers"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "generations: 100%" in output
    result = records.read_json(tmp_path / "run" / "result.json")
    assert result is not None
    assert result["test_accuracy"] > result["controls"]["start"]["test_accuracy"]
