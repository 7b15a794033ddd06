"""The README tells the truth: its Python runs, its commands exist, its test command is what CI runs."""

import re
from pathlib import Path

import pytest
from support.processes import ROOT, python

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.process
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    code, output = python(script, folder=tmp_path)
    assert code == 0, output


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 3


def test_scripts_and_figures_exist() -> None:
    named = re.findall(r"\b(?:experiments|plots|docs)/\w+\.\w+", README)
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_ci_runs_the_test_command() -> None:
    assert "-e '.[dev]' && .venv/bin/nox\n" in README.split("<!-- test command -->")[1].split("```")[1]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()
