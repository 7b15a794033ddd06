"""The choice of an engine from measured costs."""

import json
from pathlib import Path

import pytest

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.registry import ENGINES

POPULATIONS = sorted(name for name, engine in ENGINES.items() if engine.capacity is None)


def test_auto_takes_the_least_cost_that_can_serve(digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = tmp_path / "costs.json"
    monkeypatch.setattr(auto, "COSTS", costs)
    monkeypatch.setattr(auto, "user_costs", lambda: tmp_path / "none")
    # a step costs 3 a network one after another, 1 and a dense part together, or 2 and a sparse part
    table = {
        "module": {"individuals": 3.0},
        "stacked": {"steps": 1.0, "linear": 1e-3},
        "sparse": {"steps": 2.0, "sparse_linear": 1e-3},
    }
    rows = {name: [given.get(feature, 0.0) for feature in auto.FEATURES] for name, given in table.items()}
    costs.write_text(json.dumps({"cpu": rows}))
    n = digits.prunable_count * digits.recipe.batch_size
    expected = {
        "steps": 1.0,
        "individuals": 4.0,
        "weights": 4.0 * digits.parameter_count,
        "linear": 4.0 * n,
        "convolutional": 0.0,
    }
    found = dict(zip(auto.FEATURES, auto.features(digits, 0.75, 4), strict=True))
    assert {name: found[name] for name in expected} == expected
    assert found["sparse_linear"] == pytest.approx(1.0 * n, rel=1e-3)
    assert found["values"] == 4 * 64 * (64 + 24 + 24 + 16 + 16 + 10)
    assert auto.choose(digits, 0.999, 8) == "sparse"
    assert auto.choose(digits, 0.0, 1) == "module"
    assert auto.resolve("stacked", digits, 0.5, 1) == "stacked"


def test_costs_of_the_users_machine_come_first_and_damaged_ones_are_named(
    digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "costs.json"
    monkeypatch.setattr(auto, "user_costs", lambda: mine)
    mine.write_text(json.dumps({"cpu": {name: [float(name != "stacked")] * len(auto.FEATURES) for name in POPULATIONS}}))
    assert auto.choose(digits, 0.99, 4) == "stacked"
    for text in ("{", '{"cpu": {"sparse": [1, 2]}}', '{"cpu": 3}', "[]"):
        mine.write_text(text)
        with pytest.warns(UserWarning, match="evoprune calibrate"):
            assert auto.choose(digits, 0.99, 4) == "sparse"


def test_where_numba_cannot_compile_another_engine_takes_its_place(digits: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.warns(UserWarning, match="NUMBA_DISABLE_JIT"):
        assert auto.resolve("sparse", digits, 0.9, 4) == "module"
