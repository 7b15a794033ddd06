"""The command ``evoprune`` within the process of the tests, in a folder of the test's own."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evoprune.cli.main import run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs a command line, and returns its status, its output and its errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evoprune", *map(str, arguments)])
        code = 0
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def evoprune(call: Call) -> Callable[..., tuple[int, str]]:
    """Runs a command line, and returns its status and all that it printed."""

    def evoprune(*arguments: object) -> tuple[int, str]:
        code, out, err = call(*arguments)
        return code, out + err

    return evoprune
