"""The benchmark of growth, on a few small networks."""

import runpy
from pathlib import Path

import pytest
from support.processes import ROOT
from support.tables import read_table

from evoprune.operators import CROSSOVERS, MUTATIONS

names = runpy.run_path(str(ROOT / "experiments" / "benchmark_growth.py"), run_name="benchmark_growth")


def test_it_measures_every_part_at_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"weights": (8000, 30_000), "ks": (2, 4), "examples": 64, "evaluated": 2, "repeats": 1, "sparsity": 0.9}
    names["main"](names["GrowthOptions"](**sizes, out=tmp_path))
    rows = read_table(tmp_path / "growth.csv")
    parts = list(dict.fromkeys(row["part"] for row in rows))
    assert {"evaluation", "generation", "hashes", "diversity", "checkpoint"} <= set(parts)
    assert {f"mutation {name}" for name in MUTATIONS} | {f"crossover {name}" for name in CROSSOVERS} <= set(parts)
    assert len(rows) == 4 * len(parts)
    assert len({(row["weights"], row["k"]) for row in rows}) == 4
    assert all(float(row["seconds"]) > 0 for row in rows)
    for row in rows:
        (whole,) = [r for r in rows if (r["part"], r["weights"], r["k"]) == ("evaluation", row["weights"], row["k"])]
        assert float(row["share"]) == pytest.approx(float(row["seconds"]) / float(whole["seconds"]))
    printed = capsys.readouterr().out
    assert all(part in printed for part in parts)


def test_the_table_has_ratios_by_hand() -> None:
    seconds = {(10, 1): 1.0, (10, 2): 3.0, (40, 1): 5.0, (40, 2): 20.0}
    fixed = {"part": "evaluation", "share": 1.0, "added_mb": 7.0}
    rows = [{**fixed, "weights": weights, "k": k, "seconds": value} for (weights, k), value in seconds.items()]
    title, line = names["table_of"](rows)
    assert " ".join(title.split()) == "40 weights, K = 2 seconds share added MB K x 2 weights x 4"
    assert line.split() == ["evaluation", "20.000", "100.00%", "7", "4.0", "6.7"]


def test_the_network_has_about_so_many_weights() -> None:
    problem = names["make_problem"](50_000, names["GrowthOptions"](examples=32))
    assert problem.prunable_count == pytest.approx(50_000, rel=0.02)
