"""Fixtures: problems small enough to train in a moment, and registries that drive the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import EVOLVE

# before torch is imported, here and in the processes that tests start: on a busy machine more threads take many times longer
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import evoprune as ep
from evoprune.engines import ENGINES
from evoprune.fitness import FITNESS

pytest.register_assert_rewrite("comparing")

ROOT = Path(__file__).parents[1]


def mnist_folder() -> Path | None:
    folder = Path(os.environ.get("EVOPRUNE_DATA", ROOT.parent / "shared" / "data" / "mnist"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    folder = mnist_folder()
    if folder is None:
        pytest.skip("MNIST is neither in EVOPRUNE_DATA nor in ../shared/data/mnist")
    return folder


@pytest.fixture(scope="session")
def digits() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=ep.Recipe(epochs=3), seed=0)


@pytest.fixture(scope="session")
def tensors() -> ep.Data:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(120, 6, generator=generator)
    return ep.Data(train=(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()))


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["magnitude", "gradient", "combined", "loss"])
def fitness(request: pytest.FixtureRequest) -> str:
    assert request.param in FITNESS
    return str(request.param)


def start(arguments: list[str], folder: Path | None = None) -> subprocess.Popen[str]:
    """Starts python in a process group of its own, which kill_group can end."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder or ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], deadline: float = 240) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        kill_group(process)
        output, _ = process.communicate()
        pytest.fail(f"not finished within {deadline} s:\n{output}")
    return process.returncode, output


def kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool], deadline: float = 120) -> None:
    """Waits until a condition holds, as long as the process runs."""
    end = time.monotonic() + deadline
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end
        time.sleep(0.002)


def python(*arguments: object, folder: Path | None = None, deadline: float = 240) -> tuple[int, str]:
    return finish(start([str(a) for a in arguments], folder), deadline)


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "evolution.py"
    path.write_text(EVOLVE)
    return path


@pytest.fixture(scope="session")
def whole(script: Path) -> Path:
    """The serial result."""
    folder = script.parent / "whole"
    code, output = python(script, folder)
    assert code == 0, output
    return folder
