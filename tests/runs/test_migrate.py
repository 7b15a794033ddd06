"""Folders of the last schema: `evoprune migrate` brings them to this one, and then they resume and are drawn."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_damage import METHODS, killed_after, numbers

import evoprune as ep
from evoprune.comparison.migrate import migrate
from evoprune.figures import runs as figures
from evoprune.runs import records, sums
from evoprune.runs.checkpoints import Checkpoints
from evoprune.runs.migrate import migrate_run

MASKS = ("a" * 64, "b" * 64)


def savez(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def make_old(folder: Path) -> None:
    """Takes from a run folder what schema 4 had not: checksums, and those of rows."""
    for name in ("config.json", "environment.json"):
        content = json.loads((folder / name).read_text())
        del content["sha256"]
        (folder / name).write_text(json.dumps(content | ({"schema": 4} if name == "config.json" else {})))
    (folder / "checksums.json").unlink(missing_ok=True)
    rows = list(csv.reader(io.StringIO((folder / "evaluations.csv").read_text())))
    with (folder / "evaluations.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(row[:-1] for row in rows)
    for path in (folder / "checkpoint").rglob("*.safetensors"):
        save_file(load_file(path), path)


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(12,), data="digits", recipe=ep.Recipe(epochs=2), seed=0)


@pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning")
def test_a_run_is_refused_until_it_is_migrated_and_then_resumes(problem: ep.Problem, tmp_path: Path) -> None:
    evolve: Callable[[ep.Problem, Path], ep.Result] = METHODS["evolve"]
    evolve(problem, tmp_path / "whole")
    with killed_after(5):
        evolve(problem, tmp_path / "killed")
    whole = numbers(tmp_path / "whole")
    for name in ("whole", "killed"):
        make_old(tmp_path / name)
        with pytest.raises(ep.InputError, match="run: evoprune migrate"):
            evolve(problem, tmp_path / name)
        assert migrate(tmp_path / name) == [tmp_path / name]
        assert not migrate(tmp_path / name)
        evolve(problem, tmp_path / name)
        assert numbers(tmp_path / name) == whole
    assert figures.save_figures(tmp_path / "whole")


def test_a_comparison_is_migrated_with_its_cells(tmp_path: Path) -> None:
    options = {"methods": ("erk", "snip"), "sparsities": (0.5,), "seeds": 1, "model": "mlp", "widths": (12,), "epochs": 1}
    rows = ep.compare(**options, out=tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "compare.json").read_text())
    del settings["sha256"], settings["cells"]
    (tmp_path / "run" / "compare.json").write_text(json.dumps({**settings, "schema": 1}))
    (tmp_path / "run" / "checksums.json").unlink()
    with pytest.raises(ep.InputError, match="run: evoprune migrate"):
        ep.compare(**options, out=tmp_path / "run")
    assert migrate(tmp_path / "run") == [tmp_path / "run"]
    shutil.rmtree(tmp_path / "run" / "cells")  # nothing is done again
    assert ep.compare(**options, out=tmp_path / "run").equals(rows)
    assert not (tmp_path / "run" / "cells").exists()


def test_checkpoints_of_their_first_format(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    (folder / "evidence-000003").mkdir(parents=True)
    known = {"execution": {}, "divisors": {}, "identity_version": 2, "identity": {}, "method": "evolve", "settings": {}}
    records.write_json(tmp_path / "config.json", {"schema": 4, **known})
    records.write_json(folder / "winner.json", {"loss": None})
    save_file({"w": torch.ones(2)}, folder / "winner.safetensors")
    packed, text = savez(bits=np.array([[7]], np.uint8)), json.dumps({"gen": 3})
    (folder / "generation-000003.npz").write_bytes(packed)
    digests = {"npz_sha256": hashlib.sha256(packed).hexdigest(), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    records.write_json(folder / "generation-000003.json", {**digests, "state": text})
    (folder / "evidence-000003" / f"{MASKS[0]}.npz").write_bytes(savez(still=np.array([1, 2]), grow=np.array([3])))
    (folder / "evidence-000003" / f"{MASKS[1]}.npz").write_bytes(b"torn")
    assert migrate_run(tmp_path)

    def never() -> Any:
        raise AssertionError

    checkpoints = Checkpoints(folder)
    facts, tensors = checkpoints.step("winner", never)
    assert (facts, tensors["w"].tolist()) == ({"loss": None}, [1.0, 1.0])
    assert checkpoints.load_state(lambda facts, tensors: (facts, tensors["bits"].tolist())) == ({"gen": 3}, [[7]])
    evidence = [(mask, e.still.tolist(), e.grow.tolist()) for mask, (e, _) in checkpoints.load_findings(3).items()]
    assert evidence == [(MASKS[0], [1, 2], [3])]


@pytest.mark.parametrize("config", [{}, {"schema": 3}, {"schema": 4}, {"schema": [4]}])
def test_what_is_no_run_of_the_last_schema_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ep.InputError, match="holds no run"):
        migrate(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ep.InputError, match="expected a run of schema 4"):
        migrate(tmp_path)
    with pytest.raises(ep.InputError):
        sums.read_sealed(tmp_path / "config.json")
