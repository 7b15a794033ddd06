"""Fixtures: no data from outside, and problems whose code was edited."""

import sys
from collections.abc import Callable
from pathlib import Path

import pooch
import pytest
from support.identity import HELPERS, NUMBERS, SCRIPT, X, Y, load

import evoprune as ep


@pytest.fixture
def no_data_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.delenv("EVOPRUNE_CACHE", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ep.Problem]:
    """Makes the script's problem, with something replaced in it or in what it imports."""

    def make(old: str = "", new: str = "") -> ep.Problem:
        folder = tmp_path / str(next(NUMBERS))
        folder.mkdir()
        assert old in SCRIPT or old in HELPERS
        (folder / "helpers_of_identity.py").write_text(HELPERS.replace(old, new) if old else HELPERS)
        (folder / "script.py").write_text(SCRIPT.replace(old, new) if old else SCRIPT)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.delitem(sys.modules, "helpers_of_identity", raising=False)
            patch.setattr(sys, "dont_write_bytecode", True)
            script = load(folder / "script.py")
        return ep.Problem(model=script.Net(), data=ep.Data(train=(X, Y)), loss=script.Loss())

    return make
