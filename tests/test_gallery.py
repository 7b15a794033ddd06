"""The scripts of the gallery run, and print what the manual says that they print."""

from pathlib import Path

import pytest
from support.datasets import FOLDERS, cifar_files, write_files
from support.processes import ROOT, python_anew
from test_docs import NUMBER, PAGES, TOLERANCE, numbers

EXAMPLES = ROOT / "docs" / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
FEW = {"cifar": ("cifar10", "1")}  # arguments of a test, and of what the page shows other ones


@pytest.mark.sampled(2)
@pytest.mark.process
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_what_the_manual_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / FOLDERS["cifar10", "binary"], cifar_files("cifar10", "binary", 30))
    monkeypatch.setenv("EVOPRUNE_DATA", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::UserWarning")
    code, output = python_anew(EXAMPLES / f"{name}.py", *FEW.get(name, ()), folder=tmp_path)
    assert code == 0, output
    expected = (EXAMPLES / f"{name}.txt").read_text()
    printed = "".join(line for line in output.splitlines(keepends=True) if not line.startswith("compil"))
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected), output
    if name not in FEW:
        assert numbers(printed) == pytest.approx(numbers(expected), rel=TOLERANCE)
    for figure in tmp_path.glob("*.png"):
        assert (EXAMPLES / figure.name).is_file()


def test_the_page_shows_every_script_and_its_output() -> None:
    for name in SCRIPTS:
        for ending in ("py", "txt"):
            assert f"{{literalinclude}} examples/{name}.{ending}\n" in PAGES["gallery.md"]
