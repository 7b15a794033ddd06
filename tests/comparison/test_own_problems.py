"""Comparisons on problems of the user's own: a problem, a function that makes them, and names in files."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from support.own import MINE, nothing_loaded, write
from torch import nn

import evoprune as ep
from evoprune.cli import compare as cli
from evoprune.comparison import markdown
from evoprune.comparison.execute import make_problem, with_facts
from evoprune.comparison.frames import read_cells
from evoprune.comparison.options import CompareOptions, plan_of
from evoprune.comparison.spread import compute_cell
from evoprune.comparison.subject import Subject, cell_name
from evoprune.figures.comparisons import save_compare_figures
from evoprune.system import loading

FEW = {"methods": ("dense", "erk"), "sparsities": (0.5,), "seeds": 2, "engine": "module"}


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    with nothing_loaded():
        yield


def network(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 4))


@pytest.fixture
def given(tensors: ep.Data) -> ep.Problem:
    """A problem on a module, whose weights are W0."""
    torch.manual_seed(0)
    return ep.Problem(network(), tensors, ep.Recipe(epochs=1), seed=5)


def weights(folder: Path, seed: int) -> str:
    problems = json.loads((folder / "compare.json").read_text())["problems"]
    return next(facts["identity"]["weights"] for _, _, each, facts in problems if each == seed)


def test_a_problem_is_done_for_each_seed_and_a_given_w0_stays(given: ep.Problem, tmp_path: Path) -> None:
    rows = ep.compare(given, first_seed=5, **FEW, out=tmp_path)
    assert list(zip(rows["method"], rows["seed"], strict=True)) == [("dense", 5), ("erk", 5), ("dense", 6), ("erk", 6)]
    assert set(rows["data"]) == {"custom"}
    assert set(rows["model"]) == {given.options.model}
    alone = ep.prune(given, "erk", sparsity=0.5, engine="module")
    assert rows["test_accuracy"][1] == alone.summary["test_accuracy"]
    other = given.with_seed(6)
    assert np.array_equal(other.w0, given.w0)
    assert not torch.equal(other.data.test[0], given.data.test[0])
    assert rows["test_accuracy"][3] == ep.prune(other, "erk", sparsity=0.5, engine="module").summary["test_accuracy"]
    assert weights(tmp_path, 5) == weights(tmp_path, 6)
    assert "W0 is the same for every seed" in markdown.write_tables(tmp_path).read_text()
    before = (tmp_path / "cells.csv").read_bytes()
    ep.compare(given, first_seed=5, **FEW, out=tmp_path)
    assert (tmp_path / "cells.csv").read_bytes() == before


def test_w0_is_drawn_for_each_seed_where_the_user_says_so(tensors: ep.Data, tmp_path: Path) -> None:
    recipe = ep.Recipe(epochs=1)
    drawn = ep.Problem(network(), tensors, recipe, initialization="pytorch")
    ep.compare(drawn, **FEW, out=tmp_path / "drawn")
    ep.compare(lambda seed: ep.Problem(network, tensors, recipe, seed=seed), **FEW, out=tmp_path / "made")
    for folder in (tmp_path / "drawn", tmp_path / "made"):
        assert weights(folder, 0) != weights(folder, 1)
        assert "W0 is the same" not in markdown.write_tables(folder).read_text()
    assert {path.name for path in save_compare_figures(tmp_path / "made")} >= {"accuracy-custom-own.network.png"}


def test_a_budget_and_a_control(given: ep.Problem, tmp_path: Path) -> None:
    options = {"methods": ("erk", "erk-redrawn"), "sparsities": (0.5,), "seeds": 1, "engine": "module"}
    rows = ep.compare(given, **options, budget=2.0, out=tmp_path)
    assert rows["total_epochs"].tolist() == [4, 4]
    epochs = json.loads((tmp_path / "cells" / f"erk-custom-{given.options.model}-0.5-0-budget2" / "config.json").read_text())
    assert epochs["settings"]["problem"]["recipe"]["epochs"] == 4


@pytest.mark.parametrize(("lr", "note"), [(1e-9, "no better than chance"), (0.1, "")])
def test_a_cell_that_is_no_better_than_chance_says_so(tmp_path: Path, lr: float, note: str) -> None:
    rows = ep.compare(model="mlp", widths=(16,), epochs=3, lr=lr, **FEW, out=tmp_path)
    assert set(rows["note"]) == {note}
    assert rows["test_accuracy"].notna().all()
    assert ("no better than chance" in markdown.write_tables(tmp_path).read_text()) == bool(note)


def test_another_problem_is_refused_and_the_difference_named(given: ep.Problem, tensors: ep.Data, tmp_path: Path) -> None:
    ep.compare(given, **FEW, out=tmp_path)
    x, y = tensors.train
    torch.manual_seed(1)
    others = [
        (given.with_recipe(ep.Recipe(epochs=2)), "seed 0: problem.recipe.epochs was 1, now 2"),
        (ep.Problem(network(), tensors, given.recipe), "seed 0: these have changed: weights"),
        (ep.Problem(given.network(), ep.Data(train=(x * 2, y)), given.recipe), "seed 0: these have changed: data"),
        (ep.Problem(given.network(), tensors, given.recipe, exclude="2"), "problem.exclude was"),
        (
            ep.Problem(given.network(), ep.Data(train=(x, y), name="more"), given.recipe),
            "problem.data was 'custom', now 'more'",
        ),
    ]
    for other, difference in others:
        with pytest.raises(ep.InputError, match=f"holds another comparison: .*{difference}"):
            ep.compare(other, **FEW, out=tmp_path)
    with pytest.raises(ep.InputError, match="the problem of seed 0: these have changed: weights"):
        ep.compare(others[1][0], **{**FEW, "seeds": 1}, first_seed=7, out=tmp_path)  # a seed that is new
    with pytest.raises(ep.InputError, match="was given as an object, now it is made of names and options"):
        ep.compare(**FEW, out=tmp_path)
    same = ep.Problem(given.network(), tensors, given.recipe)
    assert len(ep.compare(same, **{**FEW, "seeds": 3}, out=tmp_path)) == 6


def test_a_function_that_makes_other_problems_is_refused(tensors: ep.Data, tmp_path: Path) -> None:
    recipe, out = ep.Recipe(epochs=1), tmp_path / "run"
    cases: list[tuple[Any, str]] = [
        (lambda seed: ep.Problem(network, tensors, recipe), "made a problem of seed 0 for seed 1"),
        (lambda seed: network(), "made Sequential; expected ep.Problem"),
        (lambda seed: 1 / 0, "failed for seed 0: ZeroDivisionError"),
        (network(), "the problem is Sequential; expected ep.Problem, or a function"),
        ("mlp", "the problem is str; expected ep.Problem, or a function"),
    ]
    for make, message in cases:
        with pytest.raises(ep.InputError, match=message):
            ep.compare(make, **FEW, out=out)

    def unseeded(number: int) -> ep.Problem:
        noise = torch.from_numpy(np.random.default_rng().normal(size=(60, 6)).astype(np.float32))
        return ep.Problem(network, ep.Data(train=(noise, torch.arange(60) % 4)), recipe, seed=number)

    with pytest.raises(ep.InputError, match=r"is not the one that the comparison began with: these have changed: data"):
        ep.compare(unseeded, **{**FEW, "seeds": 3}, out=out)
    with pytest.raises(ep.InputError, match="epochs, model cannot be given beside a problem"):
        ep.compare(ep.Problem("mlp"), epochs=3, model="mlp", out=out)
    assert not out.exists()


def test_a_worker_has_the_same_problem(given: ep.Problem, tmp_path: Path) -> None:
    file = write(tmp_path)
    of_file = ep.Problem(f"{file}:make", f"{file}:points", ep.Recipe(epochs=1))
    for problem in (given, of_file):
        comparison, cells = plan_of(CompareOptions(**FEW), Subject(problem))
        comparison = with_facts(comparison, cells)
        sent, files = cloudpickle.dumps(comparison), loading.sources()
        with nothing_loaded():
            received = pickle.loads(sent)
            how, content = compute_cell(received, cells[-1], None, files)
            assert how == "ok", content
            assert received.subject is pickle.loads(sent).subject  # made once
        identity = json.loads(content["config.json"])["identity"]
        assert comparison.facts[cells[-1].problem_key]["identity"] == identity


@pytest.mark.slow
def test_names_in_files_are_compared_alike_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"methods": ("erk",), "sparsities": (0.5,), "seeds": 1, "epochs": 1, "engine": "module", "out": tmp_path / "run"}
    file = write(tmp_path / "a")
    rows = ep.compare(model=f"{file}:make", data=(f"{file}:points",), **options)
    assert (rows["data"][0], rows["model"][0]) == ("mine.py:points", "mine.py:make")
    (tmp_path / "more.py").write_text("NUMBER = 1")
    loading.load(tmp_path / "more.py")  # as for a further method, which changes no problem
    problem = ep.Problem(f"{file}:make", f"{file}:points", ep.Recipe(epochs=1))
    assert rows["test_accuracy"][0] == ep.prune(problem, "erk", sparsity=0.5, engine="module").summary["test_accuracy"]
    assert str(tmp_path) not in (tmp_path / "run" / "compare.json").read_text()
    file.unlink()
    write(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    names = ["--model", "mine.py:make", "--data", "mine.py:points", "--methods", "erk", "snip", "--sparsities", "0.5"]
    more = ["--engine", "module", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path / "run")]
    cli.compare([*names, *more], None)
    assert read_cells(tmp_path / "run" / "cells.csv")["method"].tolist() == ["erk", "snip"]
    assert (tmp_path / "run" / "accuracy-mine.py-points-mine.py-make.png").exists()
    write(tmp_path / "b", MINE.replace(".relu()", ".tanh()"))
    with pytest.raises(ep.InputError, match=r"the problem of seed 0: these have changed: network, load mine\.py"):
        cli.compare([*names, *more], None)


def test_data_of_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    data = tuple(f"{write(tmp_path / name)}:points" for name in "ab")
    with pytest.raises(ep.InputError, match=r"are both called mine\.py:points; expected files of different names"):
        ep.compare(data=data, **FEW, out=tmp_path / "run")


def test_problems_by_name_are_recorded_as_before(tmp_path: Path) -> None:
    comparison, cells = plan_of(CompareOptions(**FEW), Subject(ep.Problem("mlp", widths=(8,))))
    assert make_problem(comparison, cells[-1]).seed == 1
    ep.compare(model="mlp", widths=(8,), epochs=1, **{**FEW, "methods": ("erk",)}, out=tmp_path)
    assert "problems" not in json.loads((tmp_path / "compare.json").read_text())


def test_names_of_cells_are_plain() -> None:
    assert cell_name("own.main.<locals>.Net") == "own.main.Net"
    assert cell_name("own.<lambda>") == "own.lambda"
    assert cell_name("image-folder:a/b") == "image-folder:a-b"
    assert cell_name("fashion-mnist") == "fashion-mnist"
