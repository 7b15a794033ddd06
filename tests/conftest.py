"""Fixtures: problems small enough to train in a moment, and registries that drive the tests."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support.fleet import EVOLVE
from support.processes import ROOT, python

# before torch is imported, here and in the processes that tests start: on a busy machine more threads take many times longer
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ctrl-C is ignored by programs that a script starts in the background, and by the processes that these start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.terms import FITNESS

pytest.register_assert_rewrite("support.comparing")


# whether the test that runs now may start processes
allowed = True


def refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    """Refuses new Python processes to tests that are not marked with `process`; other programs, such as git, are quick."""
    if allowed or event not in ("os.fork", "os.forkpty", "subprocess.Popen"):
        return
    if event != "subprocess.Popen" or arguments[0] == sys.executable:
        raise RuntimeError("a unit test starts a process: mark the test with @pytest.mark.process")


def start_process(process: BaseProcess) -> None:
    refuse_processes("os.fork", ())  # spawning raises no event
    start(process)


sys.addaudithook(refuse_processes)
start, BaseProcess.start = BaseProcess.start, start_process  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global allowed
    allowed = item.get_closest_marker("process") is not None
    try:
        return (yield)
    finally:
        allowed = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked with ``sampled(n)``, n cases stay, the same each time; the others are marked with ``slow``."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, cases in tests.items():
        marker = cases[0].get_closest_marker("sampled")
        assert marker is not None
        further = random.Random(name).sample(cases, max(0, len(cases) - marker.args[0]))
        for case in further:
            case.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All tests run in two processes, and tests that are named in the process that was started."""
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Tests outlast no power failure, and waiting for the disk takes longer than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded data of tests are kept in no folder of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
