"""A comparison: its cells, what they are planned to cost, and the tables that they leave."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.processes import kill_group, python, python_anew, start, wait_for

import evoprune as ep
from evoprune.cli import compare as cli
from evoprune.comparison import course as cells
from evoprune.comparison import markdown as tables
from evoprune.comparison.budget import epochs_within, planned_cost
from evoprune.comparison.cells import Cell, Comparison, make_cells
from evoprune.comparison.execute import make_problem, run_cell
from evoprune.comparison.methods import VARIANTS
from evoprune.comparison.rows import TABLES
from evoprune.comparison.spread import serial_cells
from evoprune.errors import WorkersError
from evoprune.figures import comparisons as plot_compare
from evoprune.training.cost import multiply_adds
from evoprune.workers.pool import Pool

PROBLEM = {"widths": [24, 16]}
RECIPE = {"epochs": 4}
SEARCH = {"k": 3, "fitness_epochs": 1, "dissipate_epochs": 2, "first_sparsity": 0.5}
COMPARISON = Comparison(PROBLEM, RECIPE, SEARCH)
SCRIPT = "experiments/compare.py"


def cell(method: str, sparsity: float = 0.9, budget: float | None = None) -> Cell:
    return Cell(method, "digits", "mlp", 0.0 if method == "dense" else sparsity, 0, budget)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of a few evaluations in the place of those of hundreds."""
    fewer = {
        "evolve": {"evolution": ep.Evolution(k=2, generations=2, first_sparsity=0.5, sparsify=2), "fitness_epochs": 1},
        "evolve-fixed": {"evolution": ep.Evolution(k=2, generations=2)},
        "evolve-dissipated": {
            "evolution": ep.Evolution(k=2, generations=2, start=("dissipate",), first_sparsity=0.5, sparsify=2),
            "fitness_epochs": 1,
        },
        "evolve-dissipated-fixed": {"evolution": ep.Evolution(k=2, generations=2, start=("dissipate",)), "fitness_epochs": 1},
        "random-search": {"k": 8, "fitness_epochs": 1},
        "random-search-fixed": {"k": 8},
    }
    for name, options in fewer.items():
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], options={**VARIANTS[name].options, **options}))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_every_method_does_its_cell_at_the_planned_cost(method: str, tmp_path: Path) -> None:
    run_cell(COMPARISON, cell(method), tmp_path / "run")
    facts, problem = result(tmp_path / "run"), make_problem(COMPARISON, cell(method))
    names = {
        "dissipate-relative": "dissipate",
        "dissipate-magnitude": "dissipate",
        "evolve-dissipated": "evolve",
        "evolve-dissipated-fixed": "evolve",
        "evolve-fixed": "evolve",
        "evolve-inherit": "evolve",
        "evolve-gmp-one": "evolve-gmp",
        "random-search": "kstarts",
        "random-search-fixed": "kstarts",
    }
    assert facts["method"] == names.get(method, method)
    assert facts["survivors"] == round((1 - cell(method).sparsity) * problem.prunable_count)
    everything = ep.baselines.dense(problem)
    planned = planned_cost(problem, COMPARISON, cell(method))(4)
    assert facts["multiply_adds"] / multiply_adds(problem, everything) == pytest.approx(planned, rel=2e-3)
    assert facts["total_epochs"] >= 4


@pytest.mark.sampled(8)
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("budget", [3.0, pytest.param(9.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_a_budget_is_kept_or_the_method_left_out(method: str, budget: float, tmp_path: Path) -> None:
    within = cell(method, sparsity=0.7, budget=budget)
    problem = make_problem(COMPARISON, within)
    epochs = epochs_within(problem, COMPARISON, within)
    if epochs is None:
        assert planned_cost(problem, COMPARISON, within)(1) > budget
        with pytest.raises(ep.RunError, match="does not fit a budget"):
            run_cell(COMPARISON, within, tmp_path / "run")
        return
    run_cell(COMPARISON, within, tmp_path / "run")
    epoch = multiply_adds(problem, ep.baselines.dense(problem))
    spent = result(tmp_path / "run")["multiply_adds"] / epoch
    least = planned_cost(problem, COMPARISON, within)(epochs + 1) - planned_cost(problem, COMPARISON, within)(epochs)
    assert budget - 1.01 * least < spent <= budget * 1.001


@pytest.mark.parametrize("control", ["restart", "shuffled", "redrawn"])
def test_controls_of_a_mask(control: str, tmp_path: Path) -> None:
    run_cell(COMPARISON, cell("snip"), tmp_path / "base")
    mask = ep.Mask.load(tmp_path / "base" / "mask.npz")
    run_cell(COMPARISON, cell(f"snip-{control}"), tmp_path / "control", mask)
    trained, facts = ep.Mask.load(tmp_path / "control" / "mask.npz"), result(tmp_path / "control")
    assert [layer.sum() for layer in trained.layers.values()] == [layer.sum() for layer in mask.layers.values()]
    assert (trained == mask) == (control != "shuffled")
    assert facts["validation_loss"] != result(tmp_path / "base")["validation_loss"]
    assert (facts["search_epochs"], facts["total_epochs"]) == (0, 4)


def test_cells_are_in_order_and_dense_is_once() -> None:
    made = make_cells(["snip-shuffled", "dense", "snip"], ["digits"], "mlp", [0.9, 0.95], [1, 2])
    assert [(c.method, c.sparsity, c.seed) for c in made] == [
        ("dense", 0.0, 1), ("snip", 0.9, 1), ("snip-shuffled", 0.9, 1), ("snip", 0.95, 1), ("snip-shuffled", 0.95, 1),
        ("dense", 0.0, 2), ("snip", 0.9, 2), ("snip-shuffled", 0.9, 2), ("snip", 0.95, 2), ("snip-shuffled", 0.95, 2),
    ]  # fmt: skip
    with pytest.raises(ep.InputError, match="method"):
        make_cells(["snap"], ["digits"], "mlp", [0.9], [0])
    with pytest.raises(ep.InputError, match="no sparsities"):
        make_cells(["snip"], ["digits"], "mlp", [], [0])
    with pytest.raises(ep.InputError, match="budget is nan"):
        make_cells(["snip"], ["digits"], "mlp", [0.9], [0], float("nan"))
    assert make_cells(["dense-restart"], ["digits"], "mlp", [0.9], [0])[0].sparsity == 0


def test_tables_grow_and_finished_cells_stay(tmp_path: Path) -> None:
    first = make_cells(["random", "snip"], ["digits"], "mlp", [0.9], [0])
    assert cells.compare(COMPARISON, first, tmp_path) == []
    rows = read(tmp_path / "cells.csv")
    assert [row["method"] for row in rows] == ["random", "snip"]
    (overlap,) = read(tmp_path / "overlaps.csv")
    masks = [ep.Mask.load(tmp_path / "cells" / c.folder / "mask.npz") for c in first]
    assert float(overlap["iou"]) == masks[0].iou(masks[1])
    assert len(read(tmp_path / "layers.csv")) == 2 * 3
    for path in (tmp_path / "cells").rglob("*"):
        if path.is_file():
            path.unlink()  # the rows alone say what is finished
    more = make_cells(["random", "snip", "dissipate"], ["digits"], "mlp", [0.9], [0, 1])
    assert cells.compare(COMPARISON, more, tmp_path) == []
    assert read(tmp_path / "cells.csv")[:2] == rows
    assert len(read(tmp_path / "cells.csv")) == 6
    assert not (tmp_path / "cells" / first[0].folder / "result.json").exists()
    assert {row["seed"] for row in read(tmp_path / "movement.csv")} == {"0"}
    shown = read(tmp_path / "movement.csv")
    cells.compare(COMPARISON, make_cells(["dissipate-relative"], ["digits"], "mlp", [0.9], [1]), tmp_path)
    cells.compare(COMPARISON, make_cells(["dissipate-relative"], ["digits"], "mlp", [0.9], [0]), tmp_path)
    assert read(tmp_path / "movement.csv")[: len(shown)] == shown
    assert {row["seed"] for row in read(tmp_path / "movement.csv")} == {"0"}
    with pytest.raises(ep.InputError, match=r"recipe.epochs was 4, now 5"):
        cells.compare(Comparison(PROBLEM, {"epochs": 5}, SEARCH), more, tmp_path)


def test_a_failed_cell_is_a_row_with_its_reason(tmp_path: Path) -> None:
    diverging = Comparison(PROBLEM, {"epochs": 1, "lr": 1e9}, {"k": 2, "fitness_epochs": 1})
    methods = ["kstarts", "kstarts-shuffled", "lottery-ticket", "random", "random-shuffled"]
    made = make_cells(methods, ["digits"], "mlp", [0.9], [0])
    for _ in range(2):  # running again does not do them again
        assert cells.compare(diverging, made, tmp_path) == []
        rows = {row["method"]: row for row in read(tmp_path / "cells.csv")}
        assert len(rows) == len(read(tmp_path / "cells.csv")) == 5
        assert not any(row["survivors"] for row in rows.values())
        assert "all 2 evaluations failed" in rows["kstarts"]["note"]
        assert rows["kstarts-shuffled"]["note"] == "kstarts failed"
        assert "NaN or infinite" in rows["lottery-ticket"]["note"]
        assert "the final training of the winner" in rows["random"]["note"]
        assert rows["random-shuffled"]["note"] == "random failed"


def test_a_control_brings_its_method(tmp_path: Path) -> None:
    control = make_cells(["snip-shuffled"], ["digits"], "mlp", [0.9], [0])
    assert cells.compare(COMPARISON, control, tmp_path) == []
    assert [row["method"] for row in read(tmp_path / "cells.csv")] == ["snip", "snip-shuffled"]
    shutil.rmtree(tmp_path / "cells")  # the rows alone are left, and another control is asked for
    before = read(tmp_path / "cells.csv")
    assert cells.compare(COMPARISON, make_cells(["snip-restart"], ["digits"], "mlp", [0.9], [0]), tmp_path) == []
    rows = {row["method"]: {**row, "seconds": ""} for row in read(tmp_path / "cells.csv")}
    assert list(rows) == ["snip-shuffled", "snip", "snip-restart"]
    assert all(rows[row["method"]] == {**row, "seconds": ""} for row in before)


def test_data_sets_do_not_mix(tmp_path: Path) -> None:
    """A data set whose name ends like another's."""
    made = make_cells(["random", "erk"], ["digits"], "mlp", [0.9], [0])
    assert cells.compare(COMPARISON, made[:1], tmp_path) == []
    shutil.copytree(tmp_path / "cells" / made[0].folder, tmp_path / "cells" / "random-other-digits-mlp-0.9-0")
    assert cells.compare(COMPARISON, made, tmp_path) == []
    assert [(row["a"], row["b"]) for row in read(tmp_path / "overlaps.csv")] == [("erk", "random")]


@pytest.mark.parametrize(
    ("search", "method", "message"),
    [
        ({"dissipate_epochs": 8}, "dissipate", "the recipe has 4 epochs"),
        ({"fitness": "nosuch"}, "kstarts", "nosuch"),
        ({"k": 0}, "kstarts", "k is 0"),
        ({"first_sparsity": 0.95}, "combine", "from sparsity 0.95 to 0.9"),
    ],
)
def test_bad_values_are_refused_before_anything_is_done(
    search: dict[str, object], method: str, message: str, tmp_path: Path
) -> None:
    comparison = Comparison(PROBLEM, RECIPE, {**SEARCH, **search})
    made = make_cells(["random", method], ["digits"], "mlp", [0.9], [0])
    with pytest.raises(ep.InputError, match=message):
        cells.compare(comparison, made, tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_other_options_of_a_method_are_refused(tmp_path: Path) -> None:
    cells.compare(COMPARISON, make_cells(["random"], ["digits"], "mlp", [0.9], [0]), tmp_path)
    other = Comparison(PROBLEM, RECIPE, {**SEARCH, "dissipate_epochs": 3})
    made = make_cells(["dissipate"], ["digits"], "mlp", [0.9], [0])
    assert cells.compare(other, made, tmp_path) == []  # no cell of the method was there before
    with pytest.raises(ep.InputError, match=r"dissipate.dissipate_epochs was 3, now 2"):
        cells.compare(COMPARISON, made, tmp_path)


def test_a_comparison_of_the_dense_network_alone(tmp_path: Path) -> None:
    cells.compare(COMPARISON, make_cells(["dense"], ["digits"], "mlp", [0.9], [0]), tmp_path)
    assert {path.name for path in plot_compare.save_compare_figures(tmp_path)} >= {"cost-digits-mlp.png"}
    assert "dense" in tables.write_tables(tmp_path).read_text()


def test_a_cell_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    made = make_cells(["random", "erk"], ["digits"], "mlp", [0.9], [0])
    folder = tmp_path / "cells" / made[0].folder
    folder.mkdir(parents=True)
    from filelock import FileLock

    control = make_cells(["random-shuffled"], ["digits"], "mlp", [0.9], [0])
    with FileLock(folder / ".lock"):
        assert cells.compare(COMPARISON, made + control, tmp_path) == [made[0], *control]
    assert [row["method"] for row in read(tmp_path / "cells.csv")] == ["erk"]
    assert cells.compare(COMPARISON, made, tmp_path) == []


def test_workers_that_are_lost_are_no_failure_of_a_cell(tmp_path: Path) -> None:
    class Losing(Pool):
        def submit(self, *task: object) -> int:
            raise WorkersError("the scheduler is lost")

    (kstarts,) = make_cells(["kstarts"], ["digits"], "mlp", [0.9], [0])
    with pytest.raises(WorkersError):
        list(serial_cells(COMPARISON, [kstarts], tmp_path, [], Losing("pool:1")))


ARGUMENTS = [SCRIPT, "--data", "digits", "--model", "mlp", "--widths", 24, 16, "--epochs", 3, "--dissipate-epochs", 2,
             "--sparsities", 0.9, 0.95, "--seeds", 2, "--methods", "random", "kstarts", "dissipate", "combine", "snip",
             "granet", "set", "snip-shuffled"]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "table"
    code, output = python(*ARGUMENTS, "--out", folder)
    assert code == 0, output
    assert (folder / "table.md").read_text() in output
    return folder


TIMES = {"seconds"}


def content(folder: Path) -> dict[str, list[dict[str, str]]]:
    tables = {name: read(folder / name) for name in TABLES}
    plain = {name: [{k: v for k, v in row.items() if k not in TIMES} for row in rows] for name, rows in tables.items()}
    return {name: sorted(rows, key=lambda row: list(row.values())) for name, rows in plain.items()}


@pytest.mark.process
def test_the_script_writes_cells_table_and_figures(table: Path) -> None:
    assert len(read(table / "cells.csv")) == 32
    names = {path.name for path in table.glob("*.png")}
    assert names == {f"{name}-digits-mlp.png" for name in ("accuracy", "cost", "layers", "overlap", "movement")}
    assert (table / "table.md").read_text().count("| kstarts") >= 2


@pytest.mark.process
def test_killed_and_run_again_it_redoes_no_finished_cell(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "table"
    process = start([str(a) for a in [*ARGUMENTS, "--out", folder]])
    wait_for(process, lambda: (folder / "cells.csv").exists() and len(read(folder / "cells.csv")) >= 5)
    kill_group(process)
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert 5 <= len(written) < 32
    code, output = python(*ARGUMENTS, "--out", folder)
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert content(folder) == content(table)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("workers", ["scoop", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dask:2", "pool:2"))])
def test_workers_do_the_cells_and_give_the_same(table: Path, tmp_path: Path, workers: str) -> None:
    folder = tmp_path / "table"
    launcher = ["-m", "evoprune.scoop", "-n", 2] if workers == "scoop" else []
    if workers != "scoop":
        pytest.importorskip("distributed", reason="Dask is an extra: pip install 'evoprune[dask]'")
    code, output = python_anew(*launcher, *ARGUMENTS, "--workers", workers, "--out", folder)
    assert code == 0, output
    assert "leaked" not in output
    assert content(folder) == content(table)
    names = {path.name for path in (folder / "cells" / "kstarts-digits-mlp-0.9-0").iterdir()}
    assert {"config.json", "evaluations.csv", "mask.npz", "model.safetensors", "result.json"} <= names


@pytest.mark.process
def test_an_unknown_method_ends_with_one_message(tmp_path: Path) -> None:
    code, output = python(SCRIPT, "--methods", "snap", "--out", tmp_path / "table", deadline=60)
    assert code == 2
    assert "did you mean 'snip'" in output.lower()
    assert "Traceback" not in output
    assert not (tmp_path / "table").exists()


@pytest.mark.process
def test_only_the_main_process_imports_pandas() -> None:
    code, output = python_anew("-c", "import sys, evoprune.comparison.cells; print('pandas' in sys.modules)")
    assert (code, output.strip()) == (0, "False")


def test_python_and_the_command_line_compare_alike(tmp_path: Path) -> None:
    rows = ep.compare(methods=("erk",), sparsities=(0.9,), seeds=1, widths=(12,), model="mlp", epochs=1, out=tmp_path / "run")
    assert rows["method"].tolist() == ["erk"]
    cli.compare(
        ["--methods", "erk", "random", "--sparsities", "0.9", "--seeds", "1", "--widths", "12", "--model", "mlp",
         "--epochs", "1", "--out", str(tmp_path / "run")],
        None,
    )  # fmt: skip
    assert sorted(row["method"] for row in read(tmp_path / "run" / "cells.csv")) == ["erk", "random"]
    with pytest.raises(ep.InputError, match="Did you mean 'methods'"):
        ep.compare(method=("erk",))


def test_a_method_whose_warm_up_fills_the_budget_does_not_fit() -> None:
    problem = ep.Problem("mlp", "digits", ep.Recipe(epochs=9, warmup=2.5), widths=(4,))
    within = cell("erk", sparsity=0.5, budget=2.0)
    assert epochs_within(problem, COMPARISON, within) == 4  # at half the density
    assert epochs_within(problem.with_recipe(ep.Recipe(epochs=9, warmup=3.5)), COMPARISON, within) == 4
    assert epochs_within(problem.with_recipe(ep.Recipe(epochs=9, warmup=4)), COMPARISON, within) is None
