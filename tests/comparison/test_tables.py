import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import comparison

import evoprune as ep
from evoprune.comparison import markdown as tables
from evoprune.comparison.frames import COLUMNS, read_cells, read_frame
from evoprune.comparison.statistics import compare_pairs, dense_epoch, metric, ordered, summarise
from evoprune.errors import InputError
from evoprune.masks.overlap import expected_iou
from evoprune.runs import records

SMALL = {"model": "mlp", "widths": (4,), "epochs": 1, "engine": "module"}


def frame(accuracies: dict[str, list[float]], sparsity: float = 0.9, budget: float = math.nan) -> pd.DataFrame:
    rows = [
        {
            **dict.fromkeys(COLUMNS, 1.0),
            **{"method": method, "data": "digits", "model": "mlp", "note": "", "budget": budget},
            **{"sparsity": 0.0 if method == "dense" else sparsity, "seed": float(seed), "test_accuracy": accuracy},
            **{"multiply_adds": 6e9, "total_epochs": 3.0, "test_loss": math.nan},
        }
        for method, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    return pd.DataFrame(rows)[list(COLUMNS)]


def test_mean_and_interval() -> None:
    row = summarise(frame({"snip": [0.90, 0.92, 0.94]})).iloc[0]
    assert (row["n"], row["failed"], row["metric"]) == (3, 0, "test_accuracy")
    assert row["mean"] == pytest.approx(0.92)
    assert row["std"] == pytest.approx(0.02)
    assert row["half"] == pytest.approx(4.302652730 * 0.02 / math.sqrt(3))  # t of 2 degrees of freedom, from a table


def test_a_single_seed_has_no_interval() -> None:
    cells = frame({"snip": [0.9], "random": [0.8]})
    assert summarise(cells)["half"].isna().all()
    text = tables.accuracy_table(cells)
    assert "| snip     | **90.00** |" in text
    assert "±" not in text.split("\n\n")[1]
    assert "1 seed unless n is given, so without an interval" in text


def test_the_order_of_methods_is_fixed() -> None:
    names = ["random", "zeta", "dense", "alpha", "kstarts", "random", "lottery-ticket"]
    assert ordered(names) == ["dense", "lottery-ticket", "kstarts", "random", "alpha", "zeta"]
    summary = summarise(frame({name: [0.5] for name in set(names)}))
    assert summary["method"].tolist() == ordered(names)


def test_failed_cells_are_left_out_and_said() -> None:
    cells = frame({"snip": [0.9, math.nan, 0.92], "random": [math.nan] * 3, "erk": [0.7, 0.8, 0.9]})
    cells.loc[cells["method"] == "random", "seconds"] = 7.0
    cells.loc[cells["method"] == "random", "note"] = "fc1 has no survivors"
    summary = summarise(cells).set_index("method")
    assert summary.loc["snip", ["n", "failed"]].tolist() == [2, 1]
    assert summary.loc["snip", "mean"] == pytest.approx(0.91)
    assert summary.loc["random", ["n", "failed", "seconds"]].tolist() == [0, 3, 7.0]
    text = tables.accuracy_table(cells)
    assert "snip at 90 % (1 of 3), random at 90 % (3 of 3)" in text
    assert "random at 90 % (3): fc1 has no survivors" in text
    assert "** (n = 2)" in text
    assert "| random   | failed" in text


def test_the_best_of_a_column_is_bold_and_dense_is_not() -> None:
    cells = pd.concat([
        frame({"dense": [0.99, 0.99], "snip": [0.97, 0.98], "erk": [0.95, 0.96]}),
        frame({"snip": [0.6, 0.7], "erk": [0.8, 0.9]}, sparsity=0.98),
    ])  # fmt: skip
    rows = {line.split("|")[1].strip(): line for line in tables.accuracy_table(cells).splitlines() if line.startswith("|")}
    assert [cell.strip() for cell in rows["method"].split("|")[2:-1]] == ["0 %", "90 %", "98 %"]
    assert [cell.strip() for cell in rows["dense"].split("|")[2:-1]] == ["99.00 ± 0.00", "—", "—"]
    half = 12.7062047 * 0.01 / 2  # std / sqrt(2) is half the difference of two
    snip, erk = [[cell.strip() for cell in rows[name].split("|")[2:-1]] for name in ("snip", "erk")]
    assert (snip[1], erk[1]) == (f"**97.50 ± {100 * half:.2f}**", f"95.50 ± {100 * half:.2f}")
    assert (snip[2].startswith("65.00"), erk[2].startswith("**85.00")) == (True, True)


def test_losses_where_there_is_no_accuracy() -> None:
    cells = frame({"snip": [math.nan] * 2, "erk": [math.nan] * 2})
    cells["test_loss"] = [0.012341, 0.012345, 0.022341, 0.022345]
    assert metric(cells) == "test_loss"
    text = tables.accuracy_table(cells)
    assert "smaller is better" in text
    assert "**0.01234 ± 0.00003**" in text
    assert "0.02234" in text
    pairs = compare_pairs(cells, ["erk"], ["snip"])
    assert pairs["difference"].tolist() == [pytest.approx(0.01)]
    assert "negative: a is better" in tables.pairs_table(pairs)


def test_each_metric_has_a_table() -> None:
    cells = frame({"dense": [0.9, 0.9], "snip": [0.8, 0.8], "erk": [0.7, 0.7]})
    cells["test_f1"] = [0.5, 0.7, 0.25, math.nan, math.nan, math.nan]
    cells["test_own.worst"] = math.nan  # never finite
    (table,) = tables.metric_tables(cells)
    assert table.startswith("f1 on the test set, digits, mlp, by sparsity: mean ± half-width of the 95 % t-interval")
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in table.splitlines() if line.startswith("|")}
    half = stats.t.ppf(0.975, 1) * math.sqrt(0.02) / math.sqrt(2)  # the variance of 0.5 and 0.7 is 0.02
    assert [text.strip() for text in rows["dense"]] == [f"0.6000 ± {half:.4f}", "—"]
    assert [text.strip() for text in rows["snip"]] == ["—", "0.2500 (n = 1)"]
    assert [text.strip() for text in rows["erk"]] == ["—", "—"]
    assert tables.metric_tables(cells.drop(columns=["test_f1"])) == []


def test_the_file_of_tables_has_those_of_metrics(tmp_path: Path) -> None:
    assert len(ep.compare(methods=("erk",), sparsities=(0.5,), seeds=2, **SMALL, metrics=("f1", "ece"), out=tmp_path)) == 2
    text = tables.write_tables(tmp_path).read_text()
    cells = read_cells(tmp_path / "cells.csv")
    for name in ("f1", "ece"):
        table = text.partition(f"{name} on the test set")[2]
        row = next(line for line in table.splitlines() if line.startswith("| erk"))
        assert float(row.split("|")[2].partition("±")[0]) == pytest.approx(cells[f"test_{name}"].mean(), abs=1e-4)
    assert text.index("Test accuracy") < text.index("f1 on") < text.index("ece on") < text.index("Costs,")


def test_pairs_use_the_seeds_that_both_have() -> None:
    cells = frame({"kstarts": [0.90, 0.92, 0.95, 0.99], "random": [0.89, 0.90, 0.92]})
    row = compare_pairs(cells, ["kstarts"], ["random", "kstarts"]).iloc[0]
    assert row["n"] == 3
    assert row["difference"] == pytest.approx(0.02)
    half = 4.302652730 * 0.01 / math.sqrt(3)
    assert [row["low"], row["high"]] == pytest.approx([0.02 - half, 0.02 + half])
    t = 0.02 / (0.01 / math.sqrt(3))
    assert row["p_t"] == row["p_t_holm"] == pytest.approx(2 * stats.t.sf(t, 2))
    assert row["p_wilcoxon"] == pytest.approx(0.25)  # 2 / 2**3


def test_holm_by_hand() -> None:
    rng = np.random.default_rng(0)
    methods = {
        name: list(0.9 + shift + 0.01 * rng.standard_normal(5)) for name, shift in zip("abcd", (0, 0.03, 0.01, 0), strict=True)
    }
    pairs = compare_pairs(frame(methods), ["a"], "abcd")
    assert len(pairs) == 3
    for test in ("p_t", "p_wilcoxon"):
        p = pairs[test].to_numpy()
        running, expected = 0.0, {}
        for i, at in enumerate(np.argsort(p)):
            running = max(running, min(1.0, p[at] * (3 - i)))
            expected[at] = running
        assert pairs[f"{test}_holm"].tolist() == pytest.approx([expected[i] for i in range(3)])
    assert pairs["p_wilcoxon"].min() >= 0.0625


def test_each_pair_is_one_test_whichever_way_round() -> None:
    cells = frame({name: [0.9, 0.91] for name in ("dissipate", "combine", "random")})
    pairs = compare_pairs(cells, ["dissipate", "combine"], ["dissipate", "combine", "random"])
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == [
        ("dissipate", "combine"),
        ("dissipate", "random"),
        ("combine", "random"),
    ]


def test_pairs_that_no_test_can_serve() -> None:
    cells = frame(
        {"a": [0.9, 0.92, 0.94], "same": [0.9, 0.92, 0.94], "shift": [0.8, 0.82, 0.84], "one": [0.5], "b": [0.1, 0.7, 0.2]}
    )
    pairs = compare_pairs(cells, ["a"], ["same", "shift", "one", "b"]).set_index("b")
    assert pairs.loc["same", ["p_t", "p_wilcoxon"]].tolist() == [1, 1]
    assert math.isnan(pairs.loc["shift", "p_t"])  # an infinite t of three numbers would be no evidence
    assert pairs.loc["shift", "p_wilcoxon"] == pytest.approx(0.25)
    assert pairs.loc["one", ["p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm"]].isna().all()
    assert pairs.loc["b", "p_t_holm"] == pytest.approx(min(1, 2 * pairs.loc["b", "p_t"]))  # of two t-tests
    assert "| —" in tables.pairs_table(pairs.reset_index())


def test_dense_is_compared_at_every_sparsity() -> None:
    cells = pd.concat([frame({"dense": [0.99, 0.98], "kstarts": [0.9, 0.92]}), frame({"kstarts": [0.5, 0.6]}, 0.98)])
    pairs = compare_pairs(cells, ["kstarts"], ["dense"])
    assert pairs["sparsity"].tolist() == [0.9, 0.98]
    assert pairs["difference"].tolist() == pytest.approx([-0.075, -0.435])


def test_no_pairs() -> None:
    assert compare_pairs(frame({"snip": [0.9]}), ["kstarts"], ["snip"]).empty


def test_costs_in_epochs_of_dense_training() -> None:
    cells = frame({"dense": [0.99], "snip": [0.9]})
    cells.loc[cells["method"] == "snip", "multiply_adds"] = 1e9
    assert dense_epoch(cells) == 2e9
    assert "| snip     | 1               | 3              | 0.5 " in tables.cost_table(cells)
    assert "multiply-adds (1e9)" in tables.cost_table(cells[cells["method"] == "snip"])
    assert "| 0.25 " in tables.cost_table(cells[cells["method"] == "snip"], epoch=4e9)


def test_expected_overlap_by_hand() -> None:
    assert expected_iou([5], [5], [10]) == pytest.approx(2.5 / 7.5)
    assert expected_iou([5, 4], [2, 0], [10, 4]) == pytest.approx(1 / 10)
    assert expected_iou([10], [10], [10]) == 1
    assert math.isnan(expected_iou([0], [0], [10]))


def test_expected_overlap_is_that_of_random_masks() -> None:
    rng = np.random.default_rng(0)
    draws = [[rng.permutation(1000) < count for count in (100, 200)] for _ in range(200)]
    measured = np.mean([(a & b).sum() / (a | b).sum() for a, b in draws])
    assert expected_iou([100], [200], [1000]) == pytest.approx(measured, rel=0.02)


def test_a_table_is_of_one_group() -> None:
    with pytest.raises(InputError, match="one data, model and budget"):
        tables.accuracy_table(pd.concat([frame({"snip": [0.9]}), frame({"snip": [0.9]}, budget=5.0)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: cells.drop(columns=["seed", "budget"]), "lacks the columns seed, budget"),
        (lambda cells: cells.assign(seconds="soon"), "column seconds"),
        (lambda cells: pd.concat([cells, cells]), "twice"),
        (lambda cells: cells.iloc[:0], "holds no cell"),
        (lambda cells: cells.assign(seed=math.nan), "row 2 has an empty"),
        (lambda cells: cells.iloc[:0, :0], "cannot read"),
    ],
)
def test_cells_that_are_refused(tmp_path: Path, change: object, message: str) -> None:
    change(frame({"snip": [0.9]})).to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(InputError, match=message):
        read_cells(tmp_path / "cells.csv")


def test_cells_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_cells(tmp_path / "cells.csv")


def test_cells_come_back_as_written(tmp_path: Path) -> None:
    cells = frame({"snip": [0.9, math.nan], "dense": [math.inf]})
    cells.to_csv(tmp_path / "cells.csv", index=False)
    read = read_cells(tmp_path / "cells.csv")
    assert read["test_accuracy"].isna().tolist() == [False, True, True]
    assert read["note"].tolist() == [""] * 3
    assert read["method"].tolist() == cells["method"].tolist()


def test_numbers_come_back_to_the_last_bit_and_text_as_it_is(tmp_path: Path) -> None:
    values = [*np.random.default_rng(0).random(200).tolist(), 5e-324, 1 / 3]
    rows = [{"mask": "12e4", "value": value, "more": 2.0} for value in values]
    records.write_table(tmp_path / "table.csv", ["mask", "value", "more"], rows)
    read = read_frame(tmp_path / "table.csv", ("mask", "value"), text=("mask",))
    assert read["value"].tolist() == values
    assert set(read["mask"]) == {"12e4"}
    assert set(read["more"]) == {2.0}


@pytest.mark.slow
def test_a_table_has_a_section_for_each_group_and_budget(tmp_path: Path) -> None:
    comparison.write(tmp_path, methods=("dense", "dissipate", "random", "magnitude"), seeds=2)
    extra = frame({"snip": [0.9]}).reset_index(drop=True)
    pd.concat([pd.read_csv(tmp_path / "cells.csv"), extra]).to_csv(tmp_path / "cells.csv", index=False)
    text = tables.write_tables(tmp_path).read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Comparison", "## digits, mlp", "### Main table", "## mnist, lenet-300-100", "### Main table",
        "### Equal cost: 50 epochs of dense training",
    ]  # fmt: skip
    assert "random at 99 % (1 of 2)" in text
    assert text.count("Pairs:") == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.process
def test_workers_do_not_import_the_libraries_of_tables() -> None:
    code = "import evoprune, sys; print([m for m in ('pandas', 'statsmodels', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
