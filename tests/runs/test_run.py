import json
import math
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tables import append_evaluations, read_table

import evoprune as ep
from evoprune.evaluation.evaluation import Evaluation
from evoprune.runs import records
from evoprune.runs.evaluations import Evaluations, read_evaluations
from evoprune.runs.run import Run
from evoprune.runs.settings import settings_hash

SETTINGS = {"k": 3, "problem": {"model": "mlp", "recipe": {"lr": 0.1}}}


def evaluation(name: str, loss: float = 0.25, status: str = "ok") -> Evaluation:
    terms = {"magnitude": 1 / 3, "gradient": 0.1, "loss": -loss, "sparsity": 0.9}
    return Evaluation(name, 2**63 - 1, terms, loss, 0.5, status, 'a "note", with a comma', 2.5e9, "host:1", 0.125)


def test_nothing_is_written_before_the_run_is_entered(tmp_path: Path) -> None:
    Run.plan(tmp_path / "run", "kstarts", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_evaluations_come_back_bit_for_bit(tmp_path: Path, digits: ep.Problem) -> None:
    written = [evaluation("a"), evaluation("b", math.nan, "failed")]
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        run.record(0, written[:1])
        run.record(1, written[1:])
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        assert run.evaluations["a"] == written[0]
        assert math.isnan(run.evaluations["b"].validation_loss)
        assert run.evaluations["b"].status == "failed"
    rows = (tmp_path / "run" / "evaluations.csv").read_text().splitlines()
    assert rows[0].startswith("gen,mask,seed,magnitude,gradient,loss,sparsity,validation_loss")
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1"]


def test_a_torn_row_is_dropped(tmp_path: Path, digits: ep.Problem) -> None:
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        run.record(0, [evaluation("a"), evaluation("b")])
    path = tmp_path / "run" / "evaluations.csv"
    path.write_bytes(path.read_bytes()[:-7])
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        assert list(run.evaluations) == ["a"]
        run.record(0, [evaluation("c")])
    assert [e.mask for _, e in read_evaluations(tmp_path / "run")] == ["a", "c"]


def test_other_settings_are_refused_with_the_difference_named(tmp_path: Path, digits: ep.Problem) -> None:
    folder = tmp_path / "run"
    with Run.plan(folder, "kstarts", SETTINGS).of(digits) as run:
        run.record(0, [evaluation("a")])
    other = {"k": 3, "problem": {"model": "mlp", "recipe": {"lr": 0.2}}}
    with pytest.raises(ep.InputError, match=r"problem\.recipe\.lr was 0\.1, now 0\.2.*--force"):
        Run.plan(folder, "kstarts", other)
    with pytest.raises(ep.InputError, match="method is kstarts, now evolve"):
        Run.plan(folder, "evolve", SETTINGS)
    assert read_evaluations(folder)  # nothing was lost by asking
    with Run.plan(folder, "kstarts", other, force=True).of(digits) as run:
        assert not run.evaluations
    assert records.read_json(folder / "config.json")["settings"] == other


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ep.InputError, match="holds files but no run"):
        Run.plan(tmp_path, "kstarts", SETTINGS)


def test_force_leaves_foreign_files(tmp_path: Path, digits: ep.Problem) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with Run.plan(tmp_path, "kstarts", SETTINGS, force=True).of(digits):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_a_changed_problem_is_refused(tmp_path: Path, digits: ep.Problem, tensors: ep.Data) -> None:
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits):
        pass
    other = ep.Problem(model=torch.nn.Linear(6, 3), data=tensors)
    with pytest.raises(ep.InputError, match="these have changed: weights, data, recipe, settings, network"):
        Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(other)


def test_a_resumed_run_keeps_its_threads(tmp_path: Path, digits: ep.Problem) -> None:
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS, {"threads": 1, "workers": "serial", "engine": "module"}).of(digits):
        pass
    resumed = Run.plan(tmp_path / "run", "kstarts", SETTINGS, {"threads": 2, "workers": "scoop", "engine": "sparse"})
    assert resumed.execution == {"threads": 1, "workers": "scoop", "engine": "module"}


def test_one_process_at_a_time(tmp_path: Path, digits: ep.Problem) -> None:
    with (
        Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits),
        pytest.raises(ep.InputError, match="in use by another process"),
        Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits),
    ):
        pass


def test_a_finished_step_is_read_back(tmp_path: Path, digits: ep.Problem) -> None:
    calls = []

    def compute() -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        calls.append(1)
        return {"loss": math.inf, "epochs": [1, 2]}, {"w": torch.tensor([0.1, 0.2])}

    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        first = run.step("winner", compute)
        second = run.step("winner", compute)
    assert len(calls) == 1
    assert first[0] == second[0] == {"loss": None, "epochs": [1, 2]}
    assert first[1]["w"].equal(second[1]["w"])


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    records.write_json(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        records.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_not_finite_numbers_are_null_and_empty(tmp_path: Path) -> None:
    records.write_json(tmp_path / "a.json", {"x": math.nan, "y": [math.inf, 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [None, 1.5]}
    records.write_table(tmp_path / "a.csv", ["x", "y"], [{"x": math.nan, "y": 0.1}])
    assert (tmp_path / "a.csv").read_text() == "x,y\n,0.1\n"
    (row,) = read_table(tmp_path / "a.csv")
    assert math.isnan(row["x"])
    assert row["y"] == 0.1


def test_settings_hash_tells_settings_apart() -> None:
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ep.InputError, match=r"config\.json"):
        Run.plan(tmp_path, "kstarts", SETTINGS)


def test_force_starts_over_on_a_changed_problem(tmp_path: Path, digits: ep.Problem, tensors: ep.Data) -> None:
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        run.record(0, [evaluation("a")])
    other = ep.Problem(model=torch.nn.Linear(6, 3), data=tensors)
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS, force=True).of(other) as run:
        assert not run.evaluations


def test_a_run_killed_before_its_config_starts_anew(tmp_path: Path, digits: ep.Problem) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".config.json.tmp").touch()
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        assert not run.evaluations


def test_records_with_other_terms_are_refused(tmp_path: Path, digits: ep.Problem) -> None:
    with Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits) as run:
        run.record(0, [evaluation("a")])
        other = replace(evaluation("b"), terms={**evaluation("b").terms, "mine": 1.0})
        with pytest.raises(ep.InputError, match="no column for mine; register the fitness terms as before"):
            run.record(0, [other])


def test_the_first_evaluation_decides_the_columns(tmp_path: Path) -> None:
    path, terms = tmp_path / "evaluations.csv", evaluation("a").terms
    append_evaluations(path, 0, [replace(evaluation("a"), terms={**terms, 'a, "quoted" term': 2.0})])
    append_evaluations(path, 1, [evaluation("b")])  # such as one that failed
    (_, first), (_, second) = read_evaluations(tmp_path)
    assert first.terms['a, "quoted" term'] == 2.0
    assert math.isnan(second.terms['a, "quoted" term'])
    Evaluations.read(path).rewrite([(1, second)])
    ((_, back),) = read_evaluations(tmp_path)
    assert (back.mask, list(back.terms)) == ("b", list(first.terms))


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    append_evaluations(tmp_path / "evaluations.csv", 0, [evaluation("a"), evaluation("b")])
    rows = (tmp_path / "evaluations.csv").read_text().splitlines()
    (tmp_path / "evaluations.csv").write_text("\n".join([rows[0], rows[1][:40], rows[2], ""]))
    with pytest.raises(ep.InputError, match=r"row 1 of .*evaluations\.csv differs from the one that was written"):
        read_evaluations(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path, digits: ep.Problem) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ep.InputError, match="cannot write"), Run.plan(tmp_path / "run", "kstarts", SETTINGS).of(digits):
        pass
