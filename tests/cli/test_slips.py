"""Command lines with numbers and names that cannot be meant: each ends in seconds, in one line, and leaves nothing behind."""

import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from evoprune.cli.main import run

SMALL = ("--model", "mlp", "--widths", "8", "--epochs", "2")
HUGE, TINY = ("1000000000000000000", "1e30", "1e308", "inf"), ("1e-300", "-1", "nan", "0", "text", "")
COUNTS = {
    "kstarts": ("--k", "--fitness-epochs", "--chunk-size"),
    "evolve": (
        "--k",
        "--offspring",
        "--starts",
        "--generations",
        "--tournament-size",
        "--hall-of-fame",
        "--elites",
        "--trained-bests",
    ),
    "dissipate": ("--dissipate-epochs", "--epochs", "--batch-size", "--threads"),
    "combine": ("--k", "--dissipate-epochs"),
    "compare": ("--seeds", "--k", "--threads", "--dissipate-epochs"),
}
REALS = {
    "kstarts": ("--sparsity", "--w0-density", "--validation-fraction", "--evaluation-timeout"),
    "evolve": ("--fraction", "--among", "--crossover-probability", "--first-sparsity", "--min-sparsity", "--seconds"),
    "dissipate": ("--fraction", "--lr", "--momentum", "--weight-decay"),
    "compare": ("--budget", "--sparsities", "--first-sparsity"),
}
NAMES = {
    "kstarts": ("--model", "--data", "--fitness", "--engine", "--workers", "--device", "--optimizer", "--schedule", "--loss"),
    "evolve": ("--mutation", "--crossover", "--selection", "--algorithm", "--start", "--drop", "--grow", "--scope"),
    "compare": ("--methods", "--data", "--workers", "--engine"),
}
SEEN = [
    ("dissipate", "--lr", "1e30"), ("kstarts", "--w0-density", "1e-300"), ("evolve", "--epochs", str(10**18)),
    ("kstarts", "--device", "meta"), ("kstarts", "--threads", str(2**40)), ("snip", "--widths", str(10**9)),
    ("compare", "--budget", "1e308"), ("evolve", "--k", str(10**9)), ("evolve", "--offspring", str(10**7)),
    ("evolve", "--starts", str(10**7)), ("compare", "--seeds", str(10**7)), ("kstarts", "--workers", "tcp://127.0.0.1:1"),
    ("dissipate", "--fraction", "1e-300"), ("evolve", "--tensorboard", "/dev/null/x"), ("compare", "--workers", "foo"),
    ("compare", "--threads", "0"), ("compare", "--budget", "1e-9"), ("compare", "--sparsities", "0.5", "0.50000001"),
    ("dissipate", "--clip-norm", "0"), ("kstarts", "--warmup", "1e30"), ("kstarts", "--label-smoothing", "1"),
    ("kstarts", "--precision", "half"), ("snip", "--gamma", "0.5"), ("snip", "--class-weights", "1", "2"),
    ("snip", "--widths", "1000000", "1000000"), ("kstarts", "--out", "/dev/null/run"), ("compare", "--out", "/dev/null/run"),
]  # fmt: skip
GROUPS = ((COUNTS, (*HUGE, *TINY)), (REALS, (*HUGE, *TINY)), (NAMES, ("nosuch", "", "0")))
LINES = [
    *SEEN,
    *((command, flag, value) for group, values in GROUPS for command in group for flag in group[command] for value in values),
]
# Values that are meant, or none at all.
MEANT = {
    ("evolve", "--generations", "0"), ("evolve", "--elites", "0"), ("evolve", "--trained-bests", "0"),
    ("evolve", "--crossover-probability", "0"), ("evolve", "--seconds", HUGE[0]), ("evolve", "--seconds", "1e308"),
    ("kstarts", "--fitness-epochs", "0"), ("dissipate", "--momentum", "0"), ("dissipate", "--momentum", "-1"),
}  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["evoprune", *arguments])
        code = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run()
            except SystemExit as end:
                code = int(end.code or 0)
        output = capfd.readouterr()
        return code, output.out + output.err

    return call


def slip(call: Callable[..., tuple[int, str]], folder: Path, line: tuple[str, ...]) -> str:
    """Runs a command line; a refusal has to be one line and to leave nothing. Returns what was wrong, or nothing."""
    command, *rest = line
    before, start = sorted(folder.iterdir()), time.monotonic()
    few = ("--methods", "kstarts", "--seeds", "1", "--sparsities", "0.5") if command == "compare" else ()
    code, output = call(command, *SMALL, *few, *rest)
    seconds = time.monotonic() - start
    errors = [text for text in output.splitlines() if text.startswith("error: ")]
    wrong = []
    if "Traceback" in output:
        wrong.append(f"traceback: {output[-300:]}")
    if seconds > 60:  # on any machine
        wrong.append(f"{seconds:.0f} s")
    if code and len(errors) != 1:
        wrong.append(f"{len(errors)} errors, status {code}: {output[-200:]}")
    if code == 2 and sorted(folder.iterdir()) != before:
        wrong.append(f"left {sorted(folder.iterdir())}")
    return f"{' '.join(line)}: {'; '.join(wrong)}" if wrong else ""


@pytest.mark.parametrize("line", SEEN, ids=" ".join)
def test_what_was_seen_ends_in_one_line(call, tmp_path: Path, line: tuple[str, ...], monkeypatch) -> None:
    if any(word.startswith("tcp:") for word in line) and find_spec("distributed"):
        monkeypatch.setattr("evoprune.workers.dask_cluster.PATIENCE", 1.0)  # nobody answers there
    assert not slip(call, tmp_path, line)


@pytest.mark.slow
def test_no_slip_ends_in_a_traceback_or_leaves_a_folder(call, tmp_path: Path) -> None:
    assert len(LINES) >= 150
    wrong = []
    for line in LINES:
        if line in MEANT:
            continue
        try:
            wrong.append(slip(call, tmp_path, line))
        except Exception as error:  # noqa: BLE001 - what a user would see as a traceback
            wrong.append(f"{' '.join(line)}: {type(error).__name__}: {error}")
    assert not [text for text in wrong if text], "\n".join(text for text in wrong if text)
