import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from support import evolution
from support.processes import ROOT, python

import evoprune as ep
from evoprune.figures import runs as plot
from evoprune.figures.of_run import diversity, finals, fitness, fronts, layers, survivors, training
from evoprune.figures.styles import ROLE_COLORS, ROLE_LABELS, pareto_front

EVOLUTION = ["fitness", "finals", "diversity", "survivors", "fronts"]
THREE = [
    {"nevals": 4, "min": 1, "mean": 2, "max": 4, "std": 0.5, "best": 4, "diversity": 0.9, "chance_diversity": 0.8},
    {"nevals": 3, "min": 2, "mean": 3, "max": 4, "std": 2.0, "best": 4, "diversity": 0.5, "chance_diversity": 0.7},
    {"nevals": 2, "min": 4, "mean": 5, "max": 6, "std": 0.0, "best": 6, "diversity": math.nan, "chance_diversity": math.nan},
]
LAYERS = [
    (0, "fc1", 200, 2, 4, 8, 6),
    (0, "fc2", 10, 1, 2, 4, 2),
    (1, "fc1", 200, 4, 5, 6, 4),
    (1, "fc2", 10, 2, 3, 5, 5),
]
BESTS = [
    (0, "a", 1.0, 0.5, 2.0),
    (2, "b", 2.0, 0.7, 1.5),
    (4, "b", 2.0, 0.7, 1.5),
    (6, "c", 3.0, 0.6, 1.0),
]
PAIRS = [
    {"gen": 0, "validation_accuracy": 0.5, "sparsity": 0.9},
    {"gen": 0, "validation_accuracy": 0.4, "sparsity": 0.8},
    {"gen": 0, "validation_accuracy": 0.6, "sparsity": 0.7},
    {"gen": 1, "validation_accuracy": 0.9, "sparsity": 0.99, "status": "failed"},
    {"gen": 1, "validation_accuracy": 0.55, "sparsity": 0.9},
]


def write(folder: Path) -> Path:
    """A finished run with the objectives accuracy and sparsity."""
    evolution.write_config(folder, ["accuracy", "sparsity"])
    more = {"sparsity_min": 0.7, "sparsity_mean": 0.8, "sparsity_max": 0.9, "sparsity_std": 0.05}
    evolution.write_generations(folder, [{**row, **more} for row in THREE])
    evolution.write_evaluations(folder, PAIRS)
    evolution.write_layers(folder, LAYERS)
    evolution.write_bests(folder, BESTS)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("evolve"))


def bands(figure: Figure, i: int = 0) -> list[PolyCollection]:
    return [c for c in figure.axes[i].collections if isinstance(c, PolyCollection)]


def edges(band: PolyCollection, x: float) -> list[float]:
    """The least and largest height of a band at one of its places."""
    vertices = band.get_paths()[0].vertices
    heights = vertices[vertices[:, 0] == x, 1]
    return [heights.min(), heights.max()]


def test_fitness_shows_range_spread_mean_and_best(folder: Path) -> None:
    figure = fitness.fitness_figure(folder)
    ax = figure.axes[0]
    mean, best = ax.lines
    assert mean.get_xdata().tolist() == [0, 1, 2]
    assert mean.get_ydata().tolist() == [2, 3, 5]
    assert list(best.get_ydata()) == [4, 4, 6]
    outer, inner = bands(figure)
    assert [edges(outer, gen) for gen in range(3)] == [[1, 4], [2, 4], [4, 6]]
    assert [edges(inner, gen) for gen in range(3)] == [[1.5, 2.5], [2, 4], [5, 5]]  # the second would pass the range
    assert ax.get_ylabel() == "validation accuracy after the brief training"
    assert ax.get_xlabel() == "generation"
    assert figure.get_suptitle() == "9 evaluations, generations 0 to 2"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["least to largest", "mean ± std, within the range", "population mean", "best so far"]


def test_each_objective_has_a_panel(folder: Path) -> None:
    figure = fitness.fitness_figure(folder)
    assert [ax.get_ylabel() for ax in figure.axes] == ["validation accuracy after the brief training", "sparsity"]
    (mean,) = figure.axes[1].lines
    assert mean.get_ydata().tolist() == [0.8] * 3
    assert edges(bands(figure, 1)[0], 1) == [0.7, 0.9]


def test_an_objective_that_is_not_recorded_has_none(tmp_path: Path) -> None:
    evolution.write_config(tmp_path, ["loss", "combined"])
    evolution.write_generations(tmp_path, THREE)
    (spread,) = fitness.read_fitness(tmp_path)
    assert (spread.name, spread.best) == ("loss", [4, 4, 6])
    assert fitness.fitness_figure(tmp_path).axes[0].get_ylabel() == "fitness (loss)"


def test_a_generation_without_numbers_is_a_gap(tmp_path: Path) -> None:
    evolution.write_config(tmp_path, ["loss"])
    nothing = dict.fromkeys(("min", "mean", "max", "std"), math.nan)
    evolution.write_generations(tmp_path, [THREE[0], {**THREE[1], **nothing}, THREE[2]])
    figure = fitness.fitness_figure(tmp_path)
    figure.draw_without_rendering()
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_finals_show_each_mask_once(folder: Path) -> None:
    figure = finals.finals_figure(folder)
    ax, bar = figure.axes
    assert ax.collections[0].get_offsets().tolist() == [[1, 0.5], [2, 0.7], [3, 0.6]]
    assert ax.collections[0].get_array().tolist() == [0, 2, 6]
    assert {text.get_text(): text.xy for text in ax.texts} == {"0": (1, 0.5), "2–4": (2, 0.7), "6": (3, 0.6)}
    assert ax.get_title() == "Spearman's ρ = +0.50 (3 best masks)"  # 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert ax.get_ylabel() == "validation accuracy after the full training"
    assert ax.get_xlabel() == "validation accuracy after the brief training"
    assert all(tick == round(tick) for tick in bar.get_yticks())


def test_finals_of_an_autoencoder_show_the_loss_and_count_what_diverged(tmp_path: Path) -> None:
    evolution.write_config(tmp_path, ["combined"])
    losses = [(0, "a", 1.0, math.nan, 2.0), (1, "b", 2.0, math.nan, 1.0), (2, "c", 3.0, math.nan, math.nan)]
    evolution.write_bests(tmp_path, losses)
    found = finals.read_finals(tmp_path)
    assert (found.quality, found.is_accuracy, found.diverged) == ([-2, -1], False, 1)
    ax = finals.finals_figure(tmp_path).axes[0]
    assert ax.get_title() == "Spearman's ρ = not defined (2 best masks, 1 diverged)"
    assert ax.get_ylabel() == "− validation loss after the full training"
    evolution.write_bests(tmp_path, losses[2:])
    with pytest.raises(ep.InputError, match="no mask whose full training ended with a finite loss"):
        finals.finals_figure(tmp_path)


@pytest.mark.parametrize("accuracies", [(0.5, 0.5, 0.5), (0.5, 0.7)])
def test_finals_without_a_correlation(tmp_path: Path, accuracies: tuple[float, ...]) -> None:
    evolution.write_config(tmp_path, ["loss"])
    evolution.write_bests(tmp_path, [(i, f"m{i}", float(i), accuracy, 1.0) for i, accuracy in enumerate(accuracies)])
    assert "ρ = not defined" in finals.finals_figure(tmp_path).axes[0].get_title()


def test_crowded_finals_label_those_that_have_room(tmp_path: Path) -> None:
    evolution.write_config(tmp_path, ["loss"])
    places = [0.0, 0.01, 0.5, 0.98, 0.99, 1.0]
    evolution.write_bests(tmp_path, [(i, f"m{i}", place, place, 1.0) for i, place in enumerate(places)])
    ax = finals.finals_figure(tmp_path).axes[0]
    assert sorted(text.get_text() for text in ax.texts) == ["0", "2", "5"]
    assert len(ax.collections[0].get_offsets()) == 6
    assert "ρ = +1.00" in ax.get_title()


def test_diversity_beside_chance_above_the_evaluations(folder: Path) -> None:
    upper, lower = diversity.diversity_figure(folder).axes
    measured, chance = upper.lines
    assert measured.get_ydata()[:2].tolist() == [0.9, 0.5]
    assert chance.get_ydata()[:2].tolist() == [0.8, 0.7]
    assert math.isnan(measured.get_ydata()[2])
    assert upper.get_ylim() == pytest.approx((-0.03, 1.03))
    assert not upper.texts
    (bars,) = (c for c in lower.containers if isinstance(c, BarContainer))
    assert [bar.get_height() for bar in bars] == [4, 3, 2]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([0, 1, 2])
    assert lower.get_xlabel() == "generation"
    assert upper.get_shared_x_axes().joined(upper, lower)


def test_survivors_show_density_of_mean_range_and_best(folder: Path) -> None:
    figure = survivors.survivors_figure(folder)
    ax = figure.axes[0]
    fc1, best1, fc2, best2 = ax.lines
    assert fc1.get_ydata() == pytest.approx([2, 2.5])  # percent
    assert best1.get_ydata() == pytest.approx([3, 2])
    assert fc2.get_ydata() == pytest.approx([20, 30])
    assert best2.get_ydata() == pytest.approx([20, 50])
    assert best1.get_linestyle() == best2.get_linestyle() == "--"
    assert edges(bands(figure)[0], 0) == pytest.approx([1, 4])
    assert edges(bands(figure)[1], 1) == pytest.approx([20, 50])
    assert ax.get_yscale() == "log"
    assert fc1.get_color() != fc2.get_color()
    assert fc1.get_marker() != fc2.get_marker()
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["fc1 of 200", "fc2 of 10", "population mean\n(band: least to largest)", "best so far"]


def test_a_layer_without_survivors_is_seen(tmp_path: Path) -> None:
    evolution.write_layers(tmp_path, [*LAYERS, (0, "fc3", 10, 0, 0, 0, 0), (1, "fc3", 10, 0, 0, 0, 0)])
    ax = survivors.survivors_figure(tmp_path).axes[0]
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylim()[0] < 0


def test_the_front_is_of_what_nothing_dominates() -> None:
    points = [(1.0, 3.0), (2.0, 2.0), (2.0, 1.0), (1.0, 3.0), (0.0, 3.0), (3.0, 0.0), (0.5, 2.5)]
    assert pareto_front(points) == [(1, 3), (2, 2), (3, 0)]
    assert pareto_front([(1.0, 1.0)]) == [(1, 1)]
    assert pareto_front([]) == []


def test_the_front_of_random_points_is_that_of_the_definition() -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(0).integers(0, 12, (60, 2))]
    front = pareto_front(points)
    assert set(front) == {p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)}
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(front))


def test_fronts_grow_with_the_generations(folder: Path) -> None:
    ax = fronts.fronts_figure(folder).axes[0]
    assert sorted(ax.collections[0].get_offsets().tolist()) == [[0.4, 0.8], [0.5, 0.9], [0.55, 0.9], [0.6, 0.7]]
    first, last = ax.lines
    assert first.get_xydata().tolist() == [[0.5, 0.9], [0.6, 0.7]]
    assert last.get_xydata().tolist() == [[0.55, 0.9], [0.6, 0.7]]
    assert first.get_drawstyle() == "steps-pre"
    assert [line.get_label() for line in ax.lines] == ["front up to generation 0", "front up to generation 1"]
    assert ax.get_title() == "4 evaluations, 1 more failed or not finite"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("validation accuracy after the brief training", "sparsity")


def test_fronts_of_six_generations_from_the_first_to_the_last(tmp_path: Path) -> None:
    evolution.write_config(tmp_path, ["loss", "sparsity", "magnitude"])
    evolution.write_evaluations(tmp_path, [{"gen": gen, "loss": float(gen)} for gen in range(21)])
    ax = fronts.fronts_figure(tmp_path).axes[0]
    assert [line.get_label().split()[-1] for line in ax.lines] == ["0", "4", "8", "12", "16", "20"]
    assert len({(tuple(line.get_color()), line.get_marker()) for line in ax.lines}) == 6
    assert "first two of 3 objectives" in ax.get_title()


def test_an_objective_of_several_terms_is_divided(tmp_path: Path) -> None:
    evolution.write_config(tmp_path, ["combined", "loss"], divisors={"magnitude": 10.0, "gradient": 2.0})
    evolution.write_evaluations(tmp_path, [{"magnitude": 5.0, "gradient": 3.0, "loss": -1.5}])
    assert fronts.read_evaluated(tmp_path).points == [(0, 2.0, -1.5)]
    evolution.write_config(tmp_path, ["mine", "loss"])
    with pytest.raises(ep.InputError, match=r"fitness 'mine' is not known here.*register"):
        fronts.read_evaluated(tmp_path)


def test_one_generation_is_seen(tmp_path: Path) -> None:
    write(tmp_path)
    alone = {**THREE[0], "diversity": math.nan, "chance_diversity": math.nan}
    evolution.write_generations(tmp_path, [alone])
    evolution.write_layers(tmp_path, LAYERS[:2])
    evolution.write_bests(tmp_path, BESTS[:1])
    evolution.write_evaluations(tmp_path, PAIRS[:3])
    figures = {name: plot.FIGURES[name](tmp_path) for name in EVOLUTION}
    for figure in figures.values():
        figure.draw_without_rendering()
    for name in ("fitness", "diversity", "survivors"):
        ax = figures[name].axes[-1]
        low, high = ax.get_xlim()
        assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [0]
    for name in ("fitness", "diversity", "survivors", "fronts"):
        lines = figures[name].axes[0].get_legend_handles_labels()[0]
        assert {line.get_marker() for line in lines if hasattr(line, "get_marker")} <= set("osv")
    assert figures["fitness"].get_suptitle() == "4 evaluations, generation 0"
    (bar,) = (c for c in figures["fitness"].axes[0].containers if isinstance(c, ErrorbarContainer))
    assert bar.lines[2][0].get_segments()[0][:, 1].tolist() == [1, 4]
    assert "no two masks" in figures["diversity"].axes[0].texts[0].get_text()
    assert len(figures["finals"].axes) == 1
    assert "1 best mask)" in figures["finals"].axes[0].get_title()


def test_a_run_that_goes_on_shows_what_is_there(tmp_path: Path) -> None:
    assert plot.figures_of(tmp_path) == []
    evolution.write_config(tmp_path, ["accuracy", "sparsity"])
    assert plot.figures_of(tmp_path) == []
    evolution.write_evaluations(tmp_path, PAIRS)
    path = tmp_path / "evaluations.csv"
    path.write_bytes(path.read_bytes()[:-2])  # torn in its last number, which could be read
    torn = path.read_bytes()
    assert plot.figures_of(tmp_path) == ["fronts"]
    assert fronts.read_evaluated(tmp_path).points == [(0, 0.5, 0.9), (0, 0.4, 0.8), (0, 0.6, 0.7)]
    evolution.write_generations(tmp_path, THREE)
    evolution.write_layers(tmp_path, LAYERS)
    names = ["fitness", "diversity", "survivors", "fronts"]
    assert plot.figures_of(tmp_path) == names
    assert [path.stem for path in plot.save_figures(tmp_path)] == names
    assert path.read_bytes() == torn  # the run's own file to mend


def test_a_finished_run_has_every_figure_but_the_starts(tmp_path: Path) -> None:
    write(tmp_path)
    facts = {"start": "a", "layers": {"fc1": [6, 200], "fc2": [2, 10]}}
    controls = dict.fromkeys(("start", "generation-0", "generation-4"), facts)
    evolution.write_result(tmp_path, {**facts, "controls": controls})
    roles = ["generation-0", "winner", "generation-4", "start"]
    columns = ["role", "epoch", "train_loss", "validation_loss", "validation_accuracy"]
    rows = [dict(zip(columns, [role, i, 1.0 / i, i, 0.5], strict=True)) for role in roles for i in (1, 2)]
    evolution.write_table(tmp_path, "history.csv", columns, rows)
    assert plot.figures_of(tmp_path) == ["training", "layers", *EVOLUTION]
    labels = [ROLE_LABELS["winner"], ROLE_LABELS["start"]]
    for figure in (training.training_figure(tmp_path), layers.layers_figure(tmp_path)):
        lines = figure.axes[0].lines
        assert [line.get_label() for line in lines] == labels
        assert [line.get_color() for line in lines] == [ROLE_COLORS["winner"], ROLE_COLORS["start"]]
    assert set(training.read_histories(tmp_path)) == set(roles)


def test_other_methods_have_no_figures_of_an_evolution(tmp_path: Path) -> None:
    write(tmp_path)
    evolution.write_config(tmp_path, ["accuracy", "sparsity"], method="kstarts")
    assert plot.figures_of(tmp_path) == ["starts"]


def test_folders_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ep.InputError, match="holds no run"):
        fronts.fronts_figure(tmp_path)
    evolution.write_config(tmp_path, ["loss"])
    with pytest.raises(ep.InputError, match=r"holds no generations\.csv.* after each generation; choose"):
        fitness.fitness_figure(tmp_path)
    with pytest.raises(ep.InputError, match=r"holds no bests\.csv.* when it ends"):
        finals.finals_figure(tmp_path)
    with pytest.raises(ep.InputError, match=r"one objective 'loss'; expected two or more"):
        fronts.fronts_figure(tmp_path)
    evolution.write_table(tmp_path, "generations.csv", evolution.GENERATIONS, [])
    with pytest.raises(ep.InputError, match="has no rows"):
        diversity.diversity_figure(tmp_path)
    columns = ("gen", "nevals", "min", "mean", "max", "std", "diversity", "seconds")
    evolution.write_table(tmp_path, "generations.csv", columns, [dict.fromkeys(columns, 1)])
    with pytest.raises(ep.InputError, match="lacks the columns best, chance_diversity"):
        diversity.diversity_figure(tmp_path)
    evolution.write_config(tmp_path, (), method="snip", settings={})
    with pytest.raises(ep.InputError, match="run of snip without a fitness"):
        fronts.fronts_figure(tmp_path)
    evolution.write_config(tmp_path, ["accuracy", "sparsity"])
    evolution.write_evaluations(tmp_path, PAIRS[3:4])
    with pytest.raises(ep.InputError, match="no finite accuracy and sparsity"):
        fronts.fronts_figure(tmp_path)


@pytest.mark.parametrize("name", plot.FIGURES)
def test_each_figure_has_a_script_and_a_sentence_for_help(name: str) -> None:
    assert (plot.FIGURES[name].__doc__ or "").startswith("Draws ")
    assert f'plot_main("{name}", __doc__)' in (ROOT / "plots" / f"{name}.py").read_text()


@pytest.mark.process
def test_a_script_draws_its_figure(folder: Path, tmp_path: Path) -> None:
    code, output = python("plots/fronts.py", folder, "--out", tmp_path / "figure.png")
    assert code == 0, output
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    code, output = python("plots/fitness.py", tmp_path)
    assert code == 2
    assert "holds no generations.csv" in output
