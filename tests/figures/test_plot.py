from pathlib import Path

import pytest
from matplotlib.figure import Figure

import evoprune as ep
from evoprune.figures import runs as plot
from evoprune.figures.of_run import layers, starts, training
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: ep.Problem) -> Path:
    path = tmp_path_factory.mktemp("plot") / "run"
    ep.k_starts(digits, k=4, fitness_epochs=1, out=path)
    return path


def test_the_starts_are_those_of_the_records(folder: Path) -> None:
    result = records.read_json(folder / "result.json")
    found = starts.read_starts(folder)
    assert len(found.fitness) == 4
    assert found.fitness[found.roles["winner"]] == max(found.fitness) == result["winner_fitness"]
    rows = {e.mask: e for _, e in read_evaluations(folder)}
    assert found.quality[found.roles["random"]] == rows[result["controls"]["random"]["mask"]].validation_accuracy
    assert found.rho == result["spearman_rho"]


def test_the_axes_show_the_data(folder: Path) -> None:
    found = starts.read_starts(folder)
    ax = Figure().subplots()
    starts.plot_starts(ax, found)
    assert ax.collections[0].get_offsets().tolist() == [list(p) for p in zip(found.fitness, found.quality, strict=True)]
    assert f"{found.rho:+.2f}" in ax.get_title()
    assert "combined" in ax.get_xlabel()


def test_training_curves(folder: Path) -> None:
    histories = training.read_histories(folder)
    assert set(histories) == {"winner", "random", "validation"}
    ax = Figure().subplots()
    training.plot_training(ax, histories, "validation_loss")
    line = ax.lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == histories["winner"]["validation_loss"].tolist()


def test_layers(folder: Path) -> None:
    found = layers.read_layers(folder)
    mask = ep.Mask.load(folder / "mask.npz")
    assert found["winner"] == {name: (int(layer.sum()), layer.size) for name, layer in mask.layers.items()}
    ax = Figure().subplots()
    layers.plot_layers(ax, found)
    assert ax.lines[0].get_ydata().tolist() == [kept for kept, _ in found["winner"].values()]


def test_every_figure_is_written(folder: Path) -> None:
    for path in plot.save_figures(folder):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_losses_without_accuracy(tmp_path: Path) -> None:
    problem = ep.Problem(model="autoencoder", widths=(8, 4), recipe=ep.Recipe(epochs=2))
    ep.k_starts(problem, k=3, fitness_epochs=1, out=tmp_path / "run")
    assert not starts.read_starts(tmp_path / "run").is_accuracy
    assert len(training.training_figure(tmp_path / "run").axes) == 2
    assert records.read_json(tmp_path / "run" / "result.json")["test_accuracy"] is None


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ep.InputError, match="no finished run"):
        starts.starts_figure(tmp_path)
