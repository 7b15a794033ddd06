"""The README tells the truth: its Python runs, its commands exist, its test command is what CI runs."""

import re
from pathlib import Path

import pytest
from support.processes import ROOT, python

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\s*```\n(.*?)```", README, re.DOTALL)


@pytest.mark.process
@pytest.mark.parametrize(("block", "expected"), BLOCKS, ids=range(len(BLOCKS)))
def test_python_prints_what_it_says(block: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    code, output = python(script, folder=tmp_path)
    assert code == 0, output
    assert without_seconds(output)[-len(without_seconds(expected)) :] == without_seconds(expected)


def without_seconds(output: str) -> list[list[str]]:
    """Returns the words of each line; the last one of a logbook's row is a time, and the last digits are the processor's."""
    rounded = re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4f}", output)
    rows = [line.split() for line in rounded.splitlines() if line.strip()]
    return [row[:-1] if row[0].isdecimal() else row for row in rows]


def test_every_block_shows_its_output() -> None:
    assert len(BLOCKS) == README.count("```python") == 1


def test_it_fits_two_screens() -> None:
    assert len(README.splitlines()) <= 140


def test_scripts_and_figures_exist() -> None:
    named = re.findall(r"\b(?:experiments|plots|docs)/\w+\.\w+", README)
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_ci_runs_the_test_command() -> None:
    assert "-e '.[dev]' && .venv/bin/nox\n" in README.split("<!-- test command -->")[1].split("```")[1]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()
