"""Evaluation on spawned processes, some of which are killed, hang, or cannot start."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.comparing import assert_it_alone_failed, assert_same, least_fit
from support.fleet import assert_all_end, evaluations
from support.processes import finish, kill_group, start, wait_for

import evoprune as ep
from evoprune.workers import Lost, Pool, Returned
from evoprune.workers import run as run_tasks

pytestmark = pytest.mark.process

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Starts the script with a pool, in a folder of the test's own, and ends what a failed test leaves."""
    started = []

    def call(**environment: object) -> subprocess.Popen[str]:
        for name, value in {"WORKERS": "pool:2", **environment}.items():
            monkeypatch.setenv(name, str(value))
        started.append(start([str(script), str(tmp_path / "run")]))
        return started[-1]

    yield call
    for process in started:
        if process.returncode is None:
            kill_group(process)


def pool_of(process: subprocess.Popen[str]) -> list[int]:
    """Returns the process ids of a script's pool."""
    return [p.pid for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]


def test_a_process_killed_at_work_and_the_serial_result(whole: Path, run: Run, tmp_path: Path) -> None:
    process = run()
    wait_for(process, lambda: evaluations(tmp_path / "run") > 0)
    first = pool_of(process)
    assert len(first) == 2
    for pid in first:
        before = evaluations(tmp_path / "run")
        os.kill(pid, signal.SIGKILL)
        wait_for(process, lambda before=before: evaluations(tmp_path / "run") > before)
    code, output = finish(process)
    assert code == 0, output
    assert_same(whole, tmp_path / "run")
    assert_all_end(first)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("kill", "the process that evaluated it ended: "),
        ("hang", "the process that evaluated it ended: .*; evaluation_timeout is 2 s"),
        pytest.param("raise", "ValueError: poisoned", marks=pytest.mark.slow),
        pytest.param("exit", r"SystemExit\(3\)", marks=pytest.mark.slow),
        pytest.param("rubbish", "a worker returned rubbish: ", marks=pytest.mark.slow),
    ],
)
def test_a_hostile_mask_gets_the_worst_fitness(whole: Path, run: Run, tmp_path: Path, behaviour: str, reason: str) -> None:
    poison = least_fit(whole)
    timeout = {"TIMEOUT": 2} if behaviour == "hang" else {}
    code, output = finish(run(BEHAVIOUR=behaviour, POISON=poison, **timeout))
    assert code == 0, output
    assert_it_alone_failed(tmp_path / "run", whole, poison, reason)
    if behaviour == "hang":
        assert "in term" in output  # where it hung


@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_script_ended(whole: Path, run: Run, tmp_path: Path, number: signal.Signals) -> None:
    process = run()
    wait_for(process, lambda: evaluations(tmp_path / "run") > 8)
    pids = pool_of(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.kill()
    code, output = finish(process, 30)
    assert code == (130 if number == signal.SIGINT else -number), output
    assert "Traceback" not in output
    assert_all_end(pids)
    code, output = finish(run())
    assert code == 0, output
    assert_same(whole, tmp_path / "run")


def square(i: int) -> int:
    return i * i


def end(status: int) -> None:
    os._exit(status)


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", ["as it starts", "as it is given a task"])
def test_an_interrupt_loses_no_process(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its thread would be left to the end of Python, which it disturbs."""
    before = multiprocessing.active_children()
    pool = Pool("pool:2")
    if at != "as it starts":
        pool.submit(square, 3)
        assert pool.wait() == (0, Returned(9))
    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.submit(square, 4)
    monkeypatch.undo()
    pool.close()
    assert multiprocessing.active_children() == before
    pool.submit(square, 5)
    assert pool.wait()[1] == Returned(25)
    pool.close()


@pytest.mark.slow
def test_idle_processes_are_replaced_and_a_pool_is_used_again() -> None:
    pool, tasks = Pool("pool:2"), [(i,) for i in range(5)]
    expected = {i: Returned(i * i) for i in range(5)}
    try:
        assert dict(run_tasks(pool, square, tasks)) == expected
        idle = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        assert len(idle) == 2
        for child in idle:
            child.kill()
        assert_all_end([child.pid for child in idle])
        assert dict(run_tasks(pool, square, tasks)) == expected
        pool.close()
        assert dict(run_tasks(pool, square, tasks)) == expected
        (outcome,) = [outcome for _, outcome in run_tasks(pool, end, [(5,)])]
        assert isinstance(outcome, Lost)
    finally:
        pool.close()


def test_a_script_that_cannot_be_imported_ends_the_run(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(
        "import evoprune as ep\nif __name__ != '__main__':\n    raise ImportError('no torch here')\n"
        "if __name__ == '__main__':\n    pool = ep.workers.Pool('pool:1')\n    pool.submit(abs, 1)\n    pool.wait()\n"
    )
    code, output = finish(start([str(script)]), 100)
    assert code == 1, output
    assert "ImportError: no torch here" in output
    assert "a process of pool:1 ended as it started" in output


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("import evoprune as ep\nep.k_starts(ep.Problem(), k=2, workers='pool:2')\n")
    code, output = finish(start([str(script)]), 100)
    assert code == 1, output
    assert "if __name__ == '__main__'" in output


@pytest.mark.parametrize("name", ["pool:0", "pool:", "pool", "pool:two"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ep.InputError, match="expected pool:N"):
        ep.workers.choose_workers(name)
