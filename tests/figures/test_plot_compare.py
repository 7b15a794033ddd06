import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from support import comparison
from support.processes import python

from evoprune.comparison import methods
from evoprune.comparison.markdown import write_tables
from evoprune.errors import InputError
from evoprune.figures import comparisons as plot_compare
from evoprune.figures import styles as plot_styles
from evoprune.figures.of_comparison import accuracy, cost, layers, movement, overlap
from evoprune.figures.styles import GREY

METHODS = ("dense", "dissipate", "magnitude", "random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison")
    comparison.write(path, METHODS, seeds=3)
    return path


def test_no_two_methods_look_alike() -> None:
    look = plot_styles.styles([*comparison.METHODS, "kstarts-uniform"])
    for a, b in itertools.combinations(look.values(), 2):
        assert a["color"] != b["color"]
        assert a["marker"] != b["marker"]
    many = plot_styles.styles([*methods.names(), *(f"variant-{i}" for i in range(15))])
    assert len({(style["color"], style["marker"]) for style in many.values()}) == len(methods.names()) + 15


@pytest.mark.parametrize("other", ["gmp", "variant"])
def test_a_further_method_has_the_colour_that_differs_most_from_those_beside_it(other: str) -> None:
    look = plot_styles.styles(["dense", "dissipate", "kstarts", "snip", "erk", other])
    own = to_rgb(look[other]["color"])
    assert min(math.dist(own, to_rgb(style["color"])) for name, style in look.items() if name != other) > 0.4


def test_a_method_looks_the_same_whatever_it_is_shown_with() -> None:
    assert plot_styles.styles(["random"])["random"] == plot_styles.styles(METHODS)["random"]


def test_accuracy_shows_means_and_intervals() -> None:
    cells = comparison.cells(METHODS, seeds=3)
    ax = Figure().subplots()
    accuracy.plot_accuracy(ax, cells)
    assert [line.get_label() for line in ax.lines] == list(METHODS)
    line = ax.lines[METHODS.index("random")]
    mine = cells[cells["method"] == "random"].groupby("sparsity")["test_accuracy"]
    assert line.get_xdata().tolist() == pytest.approx([10, 5, 2, 1])
    assert line.get_ydata().tolist() == pytest.approx((100 * mine.mean()).tolist())
    bands = ax.collections
    assert len(bands) == 3
    heights = bands[2].get_paths()[0].vertices[:, 1]
    half = 4.302652730 * mine.std().to_numpy() / math.sqrt(3) * 100
    assert heights.max() == pytest.approx(100 * mine.mean().iloc[0] + half[0])
    assert heights.min() == pytest.approx(100 * mine.mean().iloc[-1] - half[-1])
    low, high = ax.get_ylim()
    assert low < heights.min()
    assert high > 98.5
    assert ax.get_xlim()[0] > ax.get_xlim()[1]
    assert [ax.xaxis.get_major_formatter()(x, 0) for x in ax.xaxis.get_majorticklocs()] == ["90 %", "95 %", "98 %", "99 %"]


def test_a_single_seed_has_no_band() -> None:
    ax = Figure().subplots()
    accuracy.plot_accuracy(ax, comparison.cells(METHODS, seeds=1))
    assert len(ax.lines) == len(METHODS)
    assert not ax.collections


def test_losses_have_a_scale_of_their_own() -> None:
    cells = comparison.cells(METHODS, seeds=2).assign(test_accuracy=math.nan)
    for draw in (lambda ax: accuracy.plot_accuracy(ax, cells), lambda ax: cost.plot_cost(ax, cells, None)):
        figure = Figure()
        ax = figure.subplots()
        draw(ax)
        assert ax.get_yscale() == "log"
        assert "test loss" in ax.get_ylabel()
        figure.draw_without_rendering()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_accuracies_at_the_ends_of_the_scale(value: float) -> None:
    figure = Figure()
    ax = figure.subplots()
    accuracy.plot_accuracy(ax, comparison.cells(METHODS, seeds=2).assign(test_accuracy=value))
    figure.draw_without_rendering()
    assert np.isfinite(ax.get_ylim()).all()


def test_a_failed_method_is_not_drawn() -> None:
    cells = comparison.cells(METHODS, seeds=2)
    cells.loc[cells["method"] == "random", "test_accuracy"] = math.nan
    ax = Figure().subplots()
    accuracy.plot_accuracy(ax, cells)
    assert [line.get_label() for line in ax.lines] == list(METHODS[:-1])


@pytest.mark.parametrize("methods", [("dense",), ("dense", "random")])
def test_a_comparison_that_has_just_begun(tmp_path: Path, methods: tuple[str, ...]) -> None:
    cells = comparison.cells(methods, seeds=1)
    cells.assign(test_accuracy=math.nan, test_loss=math.nan).to_csv(tmp_path / "cells.csv", index=False)
    assert len(plot_compare.save_compare_figures(tmp_path)) == 2
    assert "| failed" in write_tables(tmp_path).read_text()


def test_cost_shows_each_budget() -> None:
    cells = pd.concat([comparison.cells(METHODS, 3), comparison.cells(METHODS, 3, budget=50.0)])
    cells = cells[cells["sparsity"].isin([0.0, 0.9])]
    ax = Figure().subplots()
    cost.plot_cost(ax, cells, epoch=3e10)
    points = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    assert len(points) == 2 * len(METHODS)
    faces = [container.lines[0].get_markerfacecolor() for container in points[:2]]
    assert faces == ["#000000", "white"]
    assert [float(container.lines[0].get_xdata()[0]) for container in points[:2]] == [15, 50]
    assert ax.get_xlabel() == "multiply-adds (epochs of dense training)"


def test_the_front_of_cost_joins_what_nothing_beats() -> None:
    cells = comparison.cells(METHODS, 3)
    cells = cells[cells["sparsity"].isin([0.0, 0.9])]
    ax = Figure().subplots()
    cost.plot_cost(ax, cells, epoch=None)
    (front,) = [line for line in ax.lines if line.get_linestyle() == "--" and line.get_color() == GREY]
    means = cells.groupby("method")[["multiply_adds", "test_accuracy"]].mean().to_numpy()
    beaten = [any((other[0] <= own[0]) & (other[1] >= own[1]) & (other != own).any() for other in means) for own in means]
    expected = sorted((x / 1e9, 100 * y) for (x, y), lost in zip(means, beaten, strict=True) if not lost)
    drawn = sorted(zip(front.get_xdata(), front.get_ydata(), strict=True))
    assert drawn == [pytest.approx(point) for point in expected]


@pytest.mark.parametrize(("narrow", "scale"), [(True, "linear"), (False, "log")])
def test_cost_has_ticks_in_any_range(narrow: bool, scale: str) -> None:
    cells = comparison.cells(METHODS, 2, budget=3.0) if narrow else comparison.cells(METHODS, 2)
    cells.loc[cells["method"] == "random", "multiply_adds"] *= 0.95
    figure = Figure()
    ax = figure.subplots()
    cost.plot_cost(ax, cells[cells["sparsity"].isin([0.0, 0.9])], epoch=None)
    figure.draw_without_rendering()
    low, high = ax.get_xlim()
    assert ax.get_xscale() == scale
    assert sum(low <= tick <= high for tick in ax.get_xticks()) >= 2


@pytest.mark.parametrize(("low", "high"), [(1.7, 8.0), (0.5, 8.0), (0.011, 0.045), (1.0, 1000.0), (2e-4, 9e3)])
def test_costs_have_three_ticks_on_a_log_scale(low: float, high: float) -> None:
    ax = Figure().subplots()
    plot_styles.scale_cost(ax, low, high)
    ax.set_xlim(low, high)
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert 3 <= len(ticks) <= 16
    assert [float(ax.xaxis.get_major_formatter()(tick)) for tick in ticks] == [pytest.approx(tick) for tick in ticks]


@pytest.mark.parametrize("width", [6.0, 20.0])
@pytest.mark.parametrize("count", [1, 3, 10, 25, 60, 400])
def test_names_of_layers_stand_clear_of_each_other(count: int, width: float) -> None:
    figure = Figure(figsize=(width, 5), layout="constrained")
    ax = figure.subplots()
    ax.set_xlim(-0.5, count - 0.5)
    plot_styles.name_layers(ax, {f"blocks.{i}.attention.weight": 1000 * i for i in range(count)}, width)
    figure.draw_without_rendering()
    labels = ax.get_xticklabels()
    assert len(labels) >= min(count, 40)
    for one, other in itertools.pairwise(labels):
        a, b = one.get_window_extent(), other.get_window_extent()
        if one.get_rotation():  # slanted lines of text are apart if their starts are
            assert abs(b.x1 - a.x1) >= 0.9 * one.get_fontsize() * figure.dpi / 72 / math.sin(math.radians(one.get_rotation()))
        else:
            assert a.x1 < b.x0


def test_very_long_names_of_layers_leave_room_for_the_axes() -> None:
    figure = Figure(figsize=(6.5, 5.4), layout="constrained")
    ax = figure.subplots()
    plot_styles.name_layers(ax, {f"a.very.long.path{'.of.another' * 8}.layers.{i}.linear.weight": 9 for i in range(8)}, 6.5)
    figure.draw_without_rendering()
    assert ax.get_window_extent().height > 1.5 * figure.dpi
    assert len({label.get_text() for label in ax.get_xticklabels()}) == 8


def test_a_cost_of_zero_stands_on_a_linear_scale() -> None:
    cells = comparison.cells(METHODS, 2)
    cells.loc[cells["method"] == "random", "multiply_adds"] = 0
    ax = Figure().subplots()
    cost.plot_cost(ax, cells[cells["sparsity"].isin([0.0, 0.9])], epoch=None)
    assert ax.get_xscale() == "linear"


def test_controls_have_no_place_in_cost(tmp_path: Path) -> None:
    cells = comparison.cells(METHODS, 2)
    again = cells[cells["method"] == "dissipate"].assign(method="dissipate-restart", multiply_adds=1.0)
    with given_cells(pd.concat([cells, again])):
        drawn = cost.cost_figure(tmp_path)
    with given_cells(again):
        alone = cost.cost_figure(tmp_path)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == list(METHODS)
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["dissipate-restart"]


@contextmanager
def given_cells(cells: pd.DataFrame) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "read_cells", lambda path: cells)
        yield


def test_layers_show_the_mean_and_the_range() -> None:
    rows = comparison.layers(["snip", "random"], seeds=3)
    rows = rows[rows["sparsity"] == 0.9]
    ax = Figure().subplots()
    layers.plot_layer_densities(ax, rows)
    points = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    assert [c.get_label() for c in points] == ["snip", "random"]
    first = rows[(rows["method"] == "snip") & (rows["layer"] == "fc1")]
    densities = 100 * first["survivors"] / first["size"]
    assert points[0].lines[0].get_ydata()[0] == pytest.approx(densities.mean())
    assert points[0].lines[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([densities.min(), densities.max()])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["fc1\nof 235,200", "fc2\nof 30,000", "fc3\nof 1,000"]
    assert ax.get_yscale() == "log"


def test_a_layer_without_survivors_is_seen() -> None:
    rows = comparison.layers(["magnitude"], seeds=2)
    ax = Figure().subplots()
    layers.plot_layer_densities(ax, rows[rows["sparsity"] == 0.99])
    assert ax.containers[0].lines[0].get_ydata()[-1] == 0
    assert ax.get_ylim()[0] < 0
    assert ax.get_yscale() == "symlog"


def test_overlap_shows_measured_and_expected_whichever_way_round() -> None:
    rows = [("random", "snip", 0.2, 0.1), ("snip", "random", 0.4, 0.1), ("snip", "erk", 0.05, 0.1)]
    overlaps = pd.DataFrame(rows, columns=["a", "b", "iou", "expected"])
    ax = Figure().subplots()
    overlap.plot_overlap(ax, overlaps)
    assert {text.get_text() for text in ax.texts} == {".30\n.10", ".050\n.10"}
    ratios = 2 ** ax.images[0].get_array().compressed()
    assert sorted(ratios[np.isfinite(ratios)]) == pytest.approx([0.5, 3])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["erk", "random"]


def test_movement_stacks_kept_and_removed_and_shows_the_cut() -> None:
    rows = comparison.movement(seeds=1, epochs=2)
    rows = rows[(rows["sparsity"] == 0.9) & (rows["epoch"] == 1)]
    ax = Figure().subplots()
    movement.plot_movement(ax, rows)
    kept, removed = [c for c in ax.containers if isinstance(c, BarContainer)]
    assert sum(bar.get_height() for bar in kept) == rows["kept"].sum()
    assert [bar.get_y() for bar in removed] == [bar.get_height() for bar in kept]
    assert ax.lines[0].get_xdata() == [rows["cut"].iloc[0]] * 2
    assert "epoch 1: " in ax.get_title()
    ax = Figure().subplots()
    movement.plot_movement(ax, rows.assign(cut=math.nan))
    assert not ax.lines


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "panels"), [("accuracy", 2), ("cost", 4), ("layers", 4), ("overlap", 8), ("movement", 8)])
def test_figures_have_their_panels_and_say_what_they_show(folder: Path, name: str, panels: int) -> None:
    figure = plot_compare.COMPARE_FIGURES[name](folder)
    assert len([ax for ax in figure.axes if ax.get_visible()]) == panels  # overlap: with a colour bar each
    caption = figure.get_supxlabel()
    assert ("seed 0, one run" if name == "movement" else "3 seeds") in caption
    if name in ("accuracy", "cost"):
        assert "95 % t-interval" in caption
        assert "1 failed cell left out" in caption
    if name in ("accuracy", "cost", "layers"):
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == [method for method in METHODS if name != "layers" or method != "dense"]


@pytest.mark.slow
def test_a_figure_is_of_one_group(tmp_path: Path) -> None:
    cells = comparison.cells(METHODS[:3], seeds=1)
    pd.concat([cells, cells.assign(data="digits")]).to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(InputError, match=r"one \(data, model\) group"):
        accuracy.accuracy_figure(tmp_path)
    names = [path.name for path in plot_compare.save_compare_figures(tmp_path)]
    assert names == [f"{name}-{data}-lenet-300-100.png" for name in ("accuracy", "cost") for data in ("mnist", "digits")]


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (layers.layers_figure, "layers"),
        (overlap.overlap_figure, "overlaps"),
        (movement.movement_figure, "movement"),
    ],
)
def test_missing_columns(tmp_path: Path, draw: Callable[[Path], Figure], name: str) -> None:
    (tmp_path / f"{name}.csv").write_text("data,model,seed\nmnist,mlp,0\n")
    with pytest.raises(InputError, match=r"lacks the columns .*sparsity"):
        draw(tmp_path)


@pytest.mark.process
def test_the_script_redraws_everything(folder: Path) -> None:
    code, output = python("plots/compare.py", folder)
    assert code == 0, output
    paths = [Path(line) for line in output.split()]
    assert [path.name.split("-")[0] for path in paths] == ["table.md", *plot_compare.COMPARE_FIGURES]
    for path in paths[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_equal_densities_have_no_spread() -> None:
    """Three times 0.7 has the mean 0.6999..., below the least of them."""
    rows = [
        {"method": "erk", "data": "d", "model": "m", "sparsity": 0.3, "seed": seed, "budget": float("nan"), "layer": "w",
         "survivors": 7, "size": 1000}
        for seed in range(3)
    ]  # fmt: skip
    ax = Figure().subplots()
    layers.plot_layer_densities(ax, pd.DataFrame(rows))
    assert len(ax.containers) == 1


@pytest.mark.parametrize(
    ("low", "high"), [(85.3, 89.9), (97.9, 98.1), (98.001, 98.004), (10.0, 99.5), (0.0, 12.0), (99.5, 99.8)]
)
def test_every_range_of_accuracies_has_ticks(low: float, high: float) -> None:
    ax = Figure().subplots()
    plot_styles.scale_accuracy(ax, low, high)
    bottom, top = ax.get_ylim()
    assert sum(bottom <= tick <= top for tick in ax.get_yticks()) >= 3
    labels = [ax.yaxis.get_major_formatter()(tick) for tick in ax.get_yticks()]
    assert len(set(labels)) == len(labels)
