"""``--quiet`` and ``--json``: one sentence, or one document, and nothing else on standard output."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ("--model", "mlp", "--widths", "8", "--epochs", "1", "--sparsity", "0.5")
NOISY = """
import sys, warnings
import numpy as np
import evoprune as ep
print("PRINTED at loading")

@ep.register.fitness("noisy")
def noisy(outcome):
    print("PRINTED")
    print("NOTED", file=sys.stderr)
    return np.array([float(mask.survivors) for mask in outcome.population.masks])
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def noisy(tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "noisy.py").write_text(NOISY)
    return ("--load", "noisy.py", "--fitness", "noisy")


def test_json_is_the_result_and_nothing_else(call: Call, tmp_path: Path, noisy: tuple[object, ...]) -> None:
    code, out, err = call("kstarts", *SMALL, "--k", 2, "--fitness-epochs", 1, *noisy, "--out", "run", "--json")
    assert code == 0, err
    assert json.loads(out) == {**json.loads((tmp_path / "run" / "result.json").read_text()), "folder": "run"}
    for words in (
        "PRINTED at loading\n",
        "PRINTED\n",
        "NOTED\n",
        "method ",
        "kstarts on digits: ",
        "written to run",
        "training: ",
    ):
        assert words in err, words
    assert call("kstarts", *SMALL, "--k", 2, "--fitness-epochs", 1, *noisy, "--out", "run", "--json")[1] == out


def test_quiet_is_one_sentence(call: Call, noisy: tuple[object, ...]) -> None:
    code, out, err = call("snip", *SMALL, "--out", "run", "--quiet")
    assert code == 0, err
    assert out.startswith("snip on digits: test accuracy ")
    assert out.count("\n") == 1
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []


@pytest.mark.slow
def test_quiet_and_json_is_the_document_alone(call: Call) -> None:
    code, out, err = call("snip", *SMALL, "--out", "run", "--quiet", "--json")
    assert code == 0, err
    assert json.loads(out)["method"] == "snip"
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []


@pytest.mark.slow
def test_the_last_of_contrary_flags_counts(call: Call) -> None:
    code, out, _ = call("snip", *SMALL, "--out", "run", "--json", "--no-json", "--quiet")
    assert (code, out[:15]) == (0, "snip on digits:")


@pytest.mark.parametrize(
    "arguments",
    [
        ("snip", *SMALL, "--engine", "nosuch"),
        ("snip", "--nosuch"),
        ("compare", "--methods", "nosuch"),
        ("list", "nowhere"),
        ("nosuch",),
    ],
)
def test_an_error_leaves_standard_output_empty(call: Call, arguments: tuple[str, ...]) -> None:
    code, out, err = call(*arguments, "--json")
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1


@pytest.mark.slow
def test_the_flags_do_not_change_the_folder(call: Call, tmp_path: Path) -> None:
    assert call("dense", "--model", "mlp", "--widths", 8, "--epochs", 1)[0] == 0
    code, out, err = call("dense", "--model", "mlp", "--widths", 8, "--epochs", 1, "--json")
    assert code == 0
    assert "is finished already" in err
    assert [Path("runs", path.name) for path in (tmp_path / "runs").iterdir()] == [Path(json.loads(out)["folder"])]


def test_a_dry_run_is_a_document_too(call: Call, tmp_path: Path) -> None:
    code, out, err = call("kstarts", *SMALL, "--k", 3, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["evaluations"] == "3"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_comparison_is_a_document_or_a_sentence(call: Call) -> None:
    few = ("--methods", "snip", "dense", "--sparsities", 0.5, "--seeds", 1, "--model", "mlp", "--widths", 8, "--epochs", 1)
    code, out, err = call("compare", *few, "--out", "comparison", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["folder"], document["left"]) == ("comparison", 0)
    assert [(cell["method"], cell["sparsity"]) for cell in document["cells"]] == [("snip", 0.5), ("dense", 0.0)]
    assert "cells: 100% 2/2" in err
    code, out, err = call("compare", *few, "--out", "comparison", "--quiet")
    assert (code, out) == (0, "comparison in comparison: 2 cells are done\n")
    code, out, err = call("list", ".", "--json")
    (entry,) = json.loads(out)["runs"]
    assert {name: entry[name] for name in ("folder", "kind", "method", "state")} == {
        "folder": "comparison", "kind": "comparison", "method": "snip, dense", "state": "finished",
    }  # fmt: skip
