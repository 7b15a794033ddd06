"""An environment with torch and safetensors alone reads an export, by the program of the manual."""

import importlib.metadata
import json
import os
import re
import subprocess
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.processes import ROOT, python

PROGRAM = re.compile(r"^```python\n(# evoprune is not needed\n.*?)^```$", re.MULTILINE | re.DOTALL)
LIKE = re.compile(r"^evoprune (dissipate|export) (.*)$", re.MULTILINE)
PAGE = (ROOT / "docs" / "guide" / "export.md").read_text(encoding="utf-8")


def distributions(*names: str) -> dict[str, importlib.metadata.Distribution]:
    """Returns installed packages and all that they require, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name.lower() in found:
            continue
        found[name.lower()] = importlib.metadata.distribution(name)
        for text in found[name.lower()].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A virtual environment with links to torch, safetensors and their requirements, and nothing else."""
    folder = tmp_path / "fresh"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in distributions("torch", "safetensors").values():
        for file in distribution.files or ():
            top, place = file.parts[0], Path(str(distribution.locate_file(file.parts[0])))
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(place)
    return folder / "bin" / "python"


def run_alone(interpreter: Path, program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [interpreter, "-I", "-W", "ignore", "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.process
def test_torch_and_safetensors_alone_find_the_test_accuracy(fresh: Path, tmp_path: Path) -> None:
    (program,) = PROGRAM.findall(PAGE)
    assert len([line for line in program.splitlines() if line and not line.startswith(("#", "from"))]) <= 10
    for command, rest in LIKE.findall(PAGE)[:2]:
        code, output = python("-m", "evoprune", command, *rest.split(), folder=tmp_path)
        assert code == 0, output
    for name in ("evoprune", "deap", "numba"):
        assert "ModuleNotFoundError" in run_alone(fresh, f"import {name}", tmp_path).stderr
    done = run_alone(fresh, program, tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((tmp_path / "runs" / "mine" / "result.json").read_text())["test_accuracy"]
    assert float(done.stdout) == accuracy
    assert accuracy > 0.5
