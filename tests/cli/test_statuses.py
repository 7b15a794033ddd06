"""The exit statuses that the help and the manual list, each really produced; completion; a whole run in a terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import ROOT, python, start, wait_for
from support.screen import python_in_terminal, shown

from evoprune.cli.guard import STATUSES
from evoprune.search.registry import method_names

pytestmark = pytest.mark.process

EVOPRUNE = ("-m", "evoprune")
SMALL = ("--model", "mlp", "--widths", 8, "--epochs", 1, "--sparsity", 0.5)
LONG = (*EVOPRUNE, "kstarts", "--model", "mlp", "--k", 2000, "--epochs", 3, "--fitness-epochs", 2, "--json", "--out")
EVOLVE = (*EVOPRUNE, "evolve", "--model", "mlp", "--k", 40, "--generations", 400, "--epochs", 3, "--json", "--out")
TERMINAL = (ROOT / "docs" / "guide" / "terminal.md").read_text(encoding="utf-8")


def status_of(status: int, folder: Path) -> int:
    """Returns the status of a command that is to end with one of the statuses."""
    if status in (0, 1, 2):
        arguments = {0: ("dense",), 1: ("dense", "--lr", "1e6"), 2: ("dense", "--lr", "-1")}[status]
        return python(*EVOPRUNE, *arguments, *SMALL[:6], "--out", folder / "run")[0]
    if status == 141:
        command = [sys.executable, *EVOPRUNE, "--help"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.close()
        return process.returncode
    command = {130: LONG, 143: EVOLVE}[status]
    process = start([str(a) for a in (*command, folder / "run")])
    wait_for(process, (folder / "run" / "evaluations.csv").exists)
    time.sleep(0.2)
    os.killpg(process.pid, {130: signal.SIGINT, 143: signal.SIGTERM}[status])
    output, _ = process.communicate(timeout=60)
    assert "resumes" in output
    assert "{" not in output.partition("load ")[2].partition("\n")[2]
    return process.returncode


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_produced_and_documented(status: int, tmp_path: Path) -> None:
    assert status_of(status, tmp_path) == status
    assert f"| {status} |" in TERMINAL


def test_the_help_lists_the_statuses() -> None:
    code, output = python(*EVOPRUNE, "--help")
    assert code == 0
    for status, meaning in STATUSES.items():
        assert f"  {status:<18} {meaning}" in output


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_methods(shell: str, tmp_path: Path) -> None:
    code, script = python(*EVOPRUNE, "--print-completion", shell)
    assert code == 0, script[-500:]
    assert all(f"'{name}'" in script for name in (*method_names(), "compare", "list", "plot"))
    if shell != "bash":
        return
    (tmp_path / "completion").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "completion"], check=True)
    ask = """source completion
for words in "evoprune kst" "evoprune kstarts --spars" "evoprune list --so"; do
    COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _tyro_evoprune; echo "${COMPREPLY[@]}"
done"""
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kstarts", "--sparsity", "--sort"]


def test_an_unknown_shell_is_refused() -> None:
    code, output = python(*EVOPRUNE, "--print-completion", "bsh")
    assert (code, output) == (2, "error: unknown shell 'bsh'; expected one of: bash, fish, zsh. Did you mean 'bash'?\n")


NOISY = """
import sys
import numpy as np
import evoprune as ep

@ep.register.fitness("noisy")
def noisy(outcome):
    print("PRINTED by a worker")
    print("NOTED by a worker", file=sys.stderr)
    return np.array([float(mask.survivors) for mask in outcome.population.masks])
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_is_torn_on_a_terminal(tmp_path: Path, columns: int) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    evolve = ("evolve", *SMALL, "--k", 3, "--generations", 2, "--offspring", 3, "--trained-bests", 0, "--chunk-size", 1)
    noisy = ("--load", "noisy.py", "--fitness", "noisy", "--fitness-epochs", 1, "--workers", "pool:2", "--out", "run")
    code, output = python_in_terminal(*EVOPRUNE, *evolve, *noisy, folder=tmp_path, columns=columns)
    lines = shown(output, columns)
    assert code == 0, "\n".join(lines)
    for words in ("PRINTED by a worker", "NOTED by a worker"):
        assert lines.count(words) == sum(words in line for line in lines) >= 3
    for bar in ("generation 0: 100%", "generations: 100%", "training: 100%"):
        assert sum(line.startswith(bar) for line in lines) == 1, "\n".join(lines)
    assert not [line for line in lines if line.startswith(("generation 1", "generation 2"))]


def test_ctrl_c_in_a_terminal_leaves_one_line(tmp_path: Path) -> None:
    long = [argument for argument in LONG if argument != "--json"]
    code, output = python_in_terminal(*long, "run", folder=tmp_path, columns=80, keys=b"\x03", at="mask/s")
    lines = shown(output, 80)
    assert code == 130, "\n".join(lines)
    assert lines[-2:] == ["interrupted; finished work is on disk, and the same command resumes", ""]
    assert "Traceback" not in output
