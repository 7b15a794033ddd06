"""The result of a run in words, from results made by hand."""

from typing import Any

import pytest

from evoprune.cli import summary
from evoprune.cli.commands import COMMANDS
from evoprune.system.streams import printable

RESULT: dict[str, Any] = {
    "method": "kstarts", "data": "digits", "model": "lenet-300-100", "seed": 0, "mask": "29c11d00f7e4b1c7" * 4,
    "start": "5e3d0fc3a7a0c1de" * 4, "sparsity": 0.9, "network_sparsity": 0.8927, "survivors": 5020, "collapse": "",
    "layers": {"0.weight": [1920, 19200], "2.weight": [3100, 31000]}, "test_accuracy": 0.9714, "test_loss": 0.1331,
    "validation_accuracy": 0.9667, "validation_loss": 0.1334, "better_than_chance": True, "fitness": "combined",
    "engine": "sparse", "winner_fitness": 2.33220382, "winner_status": "ok", "k": 16, "search_epochs": 32, "total_epochs": 50,
    "multiply_adds": 113672880.0, "cost": 3.1999, "seconds": 12.4, "spearman_rho": 0.4, "failed": 0, "machine_failures": 0,
    "no_better_than_chance": 0, "test_mine": 0.25,
    "controls": {"random": {"test_accuracy": 0.95, "test_loss": 0.2}, "validation": {"test_accuracy": None, "test_loss": None}},
}  # fmt: skip


def lines(**changes: object) -> dict[str, str]:
    rows = [line.split(maxsplit=1) for line in summary.details({**RESULT, **changes}).replace("test a", "test_a").splitlines()]
    return {name: text.strip() for name, text in rows}


def test_the_first_line_is_the_result() -> None:
    assert summary.sentence(RESULT) == (
        "kstarts on digits: test accuracy 97.14 % with 5,020 of 50,200 weights (sparsity 0.9), cost 3.2 dense epochs, 12 s"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_accuracy": None}, ": test loss 0.1331 with"),
        ({"test_accuracy": None, "test_loss": None}, ": diverged with"),
        ({"test_accuracy": None, "test_loss": 0.000123}, ": test loss 0.000123 with"),
        ({"cost": None}, "(sparsity 0.9), 12 s"),
        ({"seconds": 0.33}, ", 0.33 s"),
        ({"seconds": 600.0}, ", 10 min"),
        ({"seconds": 7200.0}, ", 2 h 0 min"),
        ({"sparsity": 0.99999}, "(sparsity 0.99999)"),
    ],
)
def test_a_sentence_of_other_results(changes: dict[str, Any], words: str) -> None:
    assert words in summary.sentence({**RESULT, **changes})


def test_each_role_has_its_measures_and_hashes_come_last() -> None:
    text = summary.details(RESULT)
    rows = text.splitlines()
    assert "97.14 % (winner), 95.00 % (random), diverged (validation)" in rows[0]
    assert "0.1331 (winner), 0.2000 (random), diverged (validation)" in rows[1]
    assert rows[-2:] == [f"  {'mask':22} 29c11d00f7e4", f"  {'start':22} 5e3d0fc3a7a0"]
    assert len({row.index(row[24:].strip()) for row in rows}) == 1, "the values are not aligned"
    assert "5,020 of 50,200 weights, sparsity 0.9; of the whole network 0.8927" in text


def test_no_entry_of_a_result_is_lost() -> None:
    text = summary.details(RESULT)
    for words in ("lenet-300-100", "test mine", "0.25", "spearman rho", "0.4", "2.3322", "32 epochs of search, 50 in all",
                  "1.137e+08", "3.2 dense epochs", "sparse", "status ok", "better than chance", "none"):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"better_than_chance": False}, "the winner is no better than chance; lower --lr"),
        ({"winner_status": "no better than chance"}, "the winner is no better than chance"),
        ({"failed": 3}, "3 of 16 masks failed"),
        ({"machine_failures": 2, "evaluations": 40}, "2 of 40 masks were not judged"),
        ({"no_better_than_chance": 1}, "1 of 16 masks were no better than chance"),
        ({"collapse": "no path to 4 outputs"}, "the winner's mask cuts off: no path to 4 outputs"),
    ],
)
def test_faults_are_said(changes: dict[str, Any], warning: str) -> None:
    assert summary.warnings(RESULT) == []
    (found,) = summary.warnings({**RESULT, **changes})
    assert found.startswith(warning)
    if "better_than_chance" in changes:
        assert "NO BETTER THAN CHANCE" in summary.details({**RESULT, **changes})
    elif "collapse" not in changes and "winner_status" not in changes:
        assert "none" not in summary.details({**RESULT, **changes})


def test_commands_are_suggested_only_if_they_exist() -> None:
    for commands in (COMMANDS, {"plot": None}, {"report": None, "export": None}):
        suggested = summary.suggestions("runs/a b", ["training"], commands)
        assert suggested[0] == "evoprune plot training 'runs/a b'"
        assert [line.split()[1] for line in suggested[1:]] == [name for name in ("report", "export") if name in commands]


def test_no_name_moves_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\n\u202e\udcff") == r"a\x1b[2Jb\r\n\u202e\udcff"
    assert printable("Größe 3 π") == "Größe 3 π"
    assert "\x1b" not in summary.sentence({**RESULT, "data": "\x1b[31mred"})
    assert "\x1b" not in summary.details({**RESULT, "note": "\x1b[31mred", "\x1b[2J": 3})
