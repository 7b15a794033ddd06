"""Networks and data of a user's file, by names such as path/to/mine.py:make."""

import json
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from support.own import MINE, nothing_loaded, write

import evoprune as ep
from evoprune.evaluation.job import BriefTraining, Job
from evoprune.problem.load import DATA, load
from evoprune.problem.models import MODELS
from evoprune.system import loading


@pytest.fixture(autouse=True)
def _new_process() -> Any:
    with nothing_loaded():
        yield


def problem_of(file: Path, **options: Any) -> ep.Problem:
    return ep.Problem(f"{file}:make", f"{file}:points", ep.Recipe(epochs=1), **options)


def changed(old: str, new: str) -> str:
    assert MINE.count(old) == 1
    return MINE.replace(old, new)


def test_a_name_is_the_function_and_records_leave_the_folder_out(tmp_path: Path) -> None:
    file = write(tmp_path)
    problem = problem_of(file)
    module = loading.load(file)
    same = ep.Problem(module.make, module.points, ep.Recipe(epochs=1))
    assert (problem.options.model, problem.options.data) == ("mine.py:make", "mine.py:points")
    assert problem.hash == same.hash
    assert torch.equal(problem.data.test[0], same.data.test[0])
    assert str(tmp_path) not in json.dumps(problem.config())
    assert ep.Problem.from_config(problem.config()) == problem  # the file is loaded already
    assert ep.Problem(f"{file}:Net", f"{file}:points", ep.Recipe(epochs=1)).options.model == "mine.py:Net"
    assert load(f"{file}:points").name == "mine.py:points"


def test_the_folder_of_the_file_does_not_count_and_its_code_does(tmp_path: Path) -> None:
    whole, run = problem_of(write(tmp_path / "a")), tmp_path / "run"
    ep.prune(whole, "erk", sparsity=0.5, engine="module", out=run)
    (tmp_path / "a" / "mine.py").unlink()
    moved = problem_of(write(tmp_path / "b", "# a comment\n" + MINE))
    assert moved.hash == whole.hash
    ep.prune(moved, "erk", sparsity=0.5, engine="module", out=run)
    for old, new in (
        ("self.first(x).relu()", "self.first(x).tanh()"),
        ("HIDDEN = 12", "HIDDEN = 13"),
        ("(x[:, 0]", "(x[:, 1]"),
    ):
        with nothing_loaded():
            other = problem_of(write(tmp_path / "c", changed(old, new)))
        assert other.hash != whole.hash
        with pytest.raises(ep.InputError, match="another problem; these have changed"):
            ep.prune(other, "erk", sparsity=0.5, engine="module", out=run)


def test_a_run_is_identified_by_the_files_of_its_problem_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(MINE)
    problem_of(other)
    ep.prune(problem_of(write(tmp_path)), "erk", sparsity=0.5, engine="module", out=tmp_path / "run")
    identity = json.loads((tmp_path / "run" / "config.json").read_text())["identity"]
    assert [name for name in identity if name.startswith("load")] == ["load mine.py"]
    loading.load(other)  # as --load does
    assert list(loading.identify_loaded()) == ["load other.py"]
    assert list(loading.identify_loaded(["mine.py:make"])) == ["load other.py", "load mine.py"]


def test_it_travels_by_value(tmp_path: Path) -> None:
    problem = problem_of(write(tmp_path))
    twin = pickle.loads(cloudpickle.dumps(problem))
    assert twin.options == problem.options
    assert torch.equal(twin.part("train")[0], problem.part("train")[0])
    payload = Job(problem, BriefTraining(1, 0)).payload
    (tmp_path / "mine.py").unlink()
    assert Job.of(payload).problem.options.model == "mine.py:make"  # and has the same identity, which is checked


def test_another_process_takes_it_from_the_text_that_was_sent(tmp_path: Path) -> None:
    file = write(tmp_path)
    problem, sent = problem_of(file), loading.sources()
    with nothing_loaded():
        write(tmp_path, changed("HIDDEN = 12", "HIDDEN = 13"))
        loading.restore(sent)
        assert problem_of(file) == problem
        file.unlink()
        assert problem_of(file) == problem


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:mak", r"unknown model of mine.py 'mak'; expected one of: Net, make, points. Did you mean 'make'"),
        ("mine.py:", "unknown model of mine.py ''"),
        ("mine.py:HIDDEN", "is int; expected a function or class"),
        ("mine.py:NET", "is a Linear, a module; expected a function or class that makes it"),
        ("mine.py", "is a file; expected also the name of a function in it"),
        ("nowhere.py:make", "cannot load .*nowhere.py.*expected a Python file"),
    ],
)
def test_names_that_cannot_be_served_are_refused(name: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, MINE + "\nNET = nn.Linear(2, 4)\n")
    with pytest.raises(ep.InputError, match=message):
        ep.Problem(f"{tmp_path}/{name}")
    with pytest.raises(ep.InputError, match=r"data set 'mine.py:make' cannot be made: TypeError"):
        ep.Problem("mlp", f"{tmp_path}/mine.py:make")


def test_files_of_one_name_are_refused_while_both_are_there(tmp_path: Path) -> None:
    first = problem_of(write(tmp_path / "a"))
    other = write(tmp_path / "b")
    with pytest.raises(ep.InputError, match="expected files of different names"):
        problem_of(other)
    (tmp_path / "a" / "mine.py").unlink()
    assert problem_of(other) == first


def test_a_registered_name_comes_first(tmp_path: Path) -> None:
    file = write(tmp_path)
    MODELS.register("mine.py:make", lambda: torch.nn.Linear(2, 4))
    try:
        assert MODELS.name_of("mine.py:make") == "mine.py:make"
        assert ep.Problem("mine.py:make", f"{file}:points").prunable_count == 8
    finally:
        MODELS.forget("mine.py:make")
    assert not DATA.is_in_file("digits")
    assert DATA.name_of("digits") == "digits"
