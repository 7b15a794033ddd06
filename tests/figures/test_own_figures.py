"""A figure of the user's: one decorated function, drawn with every run that it suits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support import evolution

import evoprune as ep
from evoprune.figures.runs import FIGURES, figures_of, save_figures, write_figure


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    for name in FIGURES.own:
        FIGURES.forget(name)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of evolve that has recorded two generations, and is not finished."""
    evolution.write_config(tmp_path / "run", ["loss"])
    numbers = {"nevals": 2, "min": 1.0, "mean": 2.0, "max": 3.0, "std": 0.5, "best": 3.0}
    evolution.write_generations(tmp_path / "run", [numbers, numbers])
    return tmp_path / "run"


def finish(run: Path) -> None:
    evolution.write_result(run, {"controls": {}, "layers": {"fc1": [2, 10]}})
    columns = ["role", "epoch", "train_loss", "validation_loss", "validation_accuracy"]
    evolution.write_table(run, "history.csv", columns, [dict(zip(columns, ["winner", 1, 2.0, 2.0, 0.5], strict=True))])


def title(folder: Path) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.suptitle(folder.name)
    return figure


def test_it_is_drawn_with_every_finished_run(run: Path) -> None:
    assert ep.register.figure("mine")(title) is title
    assert figures_of(run) == ["fitness", "diversity"]
    assert "mine.png" not in [path.name for path in save_figures(run)]
    finish(run)
    assert figures_of(run) == ["training", "layers", "fitness", "diversity", "mine"]
    assert [path.stem for path in save_figures(run)] == figures_of(run)
    assert (run / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_itself_which_runs_it_suits(run: Path, tmp_path: Path) -> None:
    @ep.register.figure("mine", suits=lambda folder: (folder / "generations.csv").exists())
    def mine(folder: Path) -> Figure:
        return title(folder)

    assert figures_of(run) == ["fitness", "diversity", "mine"]
    (tmp_path / "other").mkdir()
    finish(tmp_path / "other")
    assert figures_of(tmp_path / "other") == ["training", "layers"]


@pytest.mark.parametrize("fails", ["suits", "draw"])
def test_one_that_fails_is_a_warning_beside_the_others(run: Path, capsys: pytest.CaptureFixture[str], fails: str) -> None:
    def fail(folder: Path) -> Figure:
        raise KeyError("no such column")

    ep.register.figure("mine", title if fails == "suits" else fail, suits=fail if fails == "suits" else Path.exists)
    assert [path.stem for path in save_figures(run)] == ["fitness", "diversity"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine.png cannot be drawn: KeyError: 'no such column'" in line


def test_it_is_written_by_its_name(run: Path, tmp_path: Path) -> None:
    ep.register.figure("mine", title)
    assert write_figure("mine", run) == run / "mine.png"
    assert write_figure("mine", run, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ep.InputError, match=r"unknown figure 'mime'.* Did you mean 'mine'"):
        write_figure("mime", run)


@pytest.mark.parametrize("name", ["../mine", "", ".mine", "a/b"])
def test_its_name_is_that_of_a_file_in_the_folder(name: str) -> None:
    with pytest.raises(ep.InputError, match="expected a plain name"):
        ep.register.figure(name, title)
    assert not FIGURES.own


def test_the_names_of_the_package_are_taken() -> None:
    with pytest.raises(ep.InputError, match="figure 'layers' is built in"):
        ep.register.figure("layers", title)
