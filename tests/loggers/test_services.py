"""Runs that are logged to MLflow (in a database of the test's) and to Weights & Biases (offline)."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import python

import evoprune as ep

pytestmark = pytest.mark.process  # W&B starts one, and both take seconds to import
BLOCK, FULL, FIRST, LAST = 32768, 1, 2, 4
EVOLUTION = ep.Evolution(k=2, generations=2)
SMALL: dict[str, Any] = {"sparsity": 0.8, "trained_bests": 0, "controls": False}


class Stops:
    """A callback that ends an evolution after its first generation."""

    def on_generation(self, state: Any) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of MLflow, with a database of its own."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("sqlalchemy", reason="MLflow's database needs the extra mlflow")
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed", exc_type=ImportError)
    from mlflow.tracking import MlflowClient

    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def test_mlflow_has_the_run(mlflow: Any, digits: ep.Problem, tmp_path: Path) -> None:
    arguments = {**SMALL, "out": tmp_path / "run", "log": "mlflow:mine"}
    with pytest.raises(KeyboardInterrupt):
        ep.evolve(digits, EVOLUTION, callbacks=[Stops()], **arguments)
    experiment = mlflow.get_experiment_by_name("mine").experiment_id
    assert [run.info.status for run in mlflow.search_runs([experiment])] == ["KILLED"]
    result = ep.evolve(digits, EVOLUTION, **arguments)
    (run,) = mlflow.search_runs([experiment])  # the same one
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["method"] == "evolve"
    assert run.data.params["problem.recipe.epochs"] == "3"
    assert run.data.metrics["result/test_accuracy"] == result.summary["test_accuracy"]
    assert run.data.metrics["result/survivors"] == result.mask.survivors

    def history(name: str) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in mlflow.get_metric_history(run.info.run_id, name))

    assert history("fitness/mean") == list(enumerate(result.logbook.select("mean")))
    assert [step for step, _ in history("evaluation/loss")] == list(range(1, 13))
    losses = [row["validation_loss"] for row in result.trainings["winner"].history]
    assert history("winner/validation_loss") == list(enumerate(losses, 1))
    assert json.loads((tmp_path / "run" / "loggers.json").read_text())["loggers"]["mlflow:mine"]["id"] == run.info.run_id


@pytest.mark.slow
def test_a_run_that_mlflow_does_not_have_is_refused(
    mlflow: Any, digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {**SMALL, "out": tmp_path / "run", "log": "mlflow"}
    with pytest.raises(KeyboardInterrupt):
        ep.evolve(digits, EVOLUTION, callbacks=[Stops()], **arguments)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(ep.InputError, match=r"the logger mlflow cannot begin: MlflowException: Run with id=.* not found"):
        ep.evolve(digits, EVOLUTION, **arguments)
    ep.evolve(digits, EVOLUTION, **{**arguments, "log": ()})


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of W&B's files, which nobody else sees."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed", exc_type=ImportError)
    yield tmp_path / "wandb"
    wandb.teardown()


def read_offline(path: Path) -> Iterator[Any]:
    """Yields the records of a file of W&B's, which has the format of LevelDB's logs: parts of records in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = path.read_bytes(), 7, b""  # after the header of the file
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:  # no room for the header of a part
            at += BLOCK - at % BLOCK
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if kind in (FULL, FIRST):
            whole = b""
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def values_of(records: list[Any], name: str) -> list[float]:
    items = (item for record in records for item in record.history.item)
    return [json.loads(item.value_json) for item in items if (item.key or "/".join(item.nested_key)) == name]


def test_wandb_has_the_run(offline: Path, digits: ep.Problem, tmp_path: Path) -> None:
    arguments = {**SMALL, "out": tmp_path / "run", "log": "wandb"}
    with pytest.raises(KeyboardInterrupt):
        ep.evolve(digits, EVOLUTION, callbacks=[Stops()], **arguments)
    result = ep.evolve(digits, EVOLUTION, **arguments)
    name = json.loads((tmp_path / "run" / "loggers.json").read_text())["loggers"]["wandb"]["id"]
    files = sorted(offline.glob(f"offline-run-*-{name}*/run-{name}.wandb"))
    assert len(files) == 2  # one a session; W&B numbers the folders of those that begin within a second
    records = [record for path in files for record in read_offline(path)]
    begun = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.display_name) for run in begun} == {(name, "evoprune", "run")}
    assert '"evolve"' in [item.value_json for item in begun[-1].config.update if item.key == "method"]
    exits = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    assert exits == [255, 0]
    assert values_of(records, "generation/fitness/mean") == result.logbook.select("mean")
    assert values_of(records, "evaluation/number") == list(range(1, 13))
    assert len(values_of(records, "winner/validation_loss")) == 3


def test_wandb_without_an_account_is_refused(digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed", exc_type=ImportError)
    script = tmp_path / "script.py"
    script.write_text(
        "import evoprune as ep\nep.prune(ep.Problem(model='mlp', widths=(8,)), 'erk', sparsity=0.3, log='wandb')\n"
    )
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    code, output = python(script, folder=tmp_path)
    assert code != 0
    assert "the logger wandb cannot begin" in output
    assert "API key" in output
