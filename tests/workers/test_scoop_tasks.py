"""SCOOP's own futures, exit statuses, signals and errors under the launcher."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fleet import assert_all_end
from support.launching import LAUNCHER, SCRIPT, Processes
from support.processes import finish, python_anew, start, wait_for

TASKS = """
import os, signal, subprocess, sys, time
from pathlib import Path
from scoop import futures, shared

def square(i):
    return i * i

def slow_square(i):
    time.sleep(0.02)  # so that a worker gets tasks while it waits for its own, and gives them back
    return i * i

def nested(n):
    return sum(futures.map(slow_square, range(n)))

def twice_nested(n):
    return sum(futures.map(nested, range(n)))

def constant(i):
    return shared.getConst("numbers")[i]

def parent_of_a_sleeper(folder):
    sleeper = subprocess.Popen(["sleep", "600"])
    Path(folder, f"sleeper-{sleeper.pid}").touch()
    if not Path(folder, "killed").exists():
        Path(folder, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600 if Path(folder, "wait").exists() else 0)

def bad(kind):
    if kind == "raise":
        raise ValueError("bad task")
    if kind == "exit":
        sys.exit(0)
    if kind == "lambda":
        return lambda: 0
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    mode = sys.argv[1]
    if mode == "work":
        print(list(futures.map(square, range(5))), list(futures.map(twice_nested, range(7))))
        shared.setConst(numbers=[7, 8])
        print(list(futures.map(constant, range(2))))
        sys.exit(7)
    if mode == "interrupt":
        try:
            print("ready", flush=True)
            list(futures.map(time.sleep, [600] * 3))
        except KeyboardInterrupt:
            print("cleaned up")
            sys.exit(130)
    if mode == "alarm":
        signal.signal(signal.SIGALRM, lambda number, frame: 1 / 0)
        signal.alarm(1)
        try:
            list(futures.map(time.sleep, [600]))
        except ZeroDivisionError:
            sys.exit(5)
    if mode == "sleepers":
        list(futures.map(parent_of_a_sleeper, sys.argv[2:]))
        sys.exit(0)
    if mode == "unpicklable":
        futures.submit(square, (i for i in range(3)))
    list(futures.map(bad, [mode]))
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "tasks.py"
    path.write_text(TASKS)
    return path


@pytest.mark.process
@pytest.mark.parametrize("n", [1, 2])
def test_scoops_own_futures_and_the_scripts_exit_status(tasks: Path, n: int) -> None:
    code, output = python_anew(*LAUNCHER, "-n", n, tasks, "work", "--host", "-n 5", deadline=60)
    assert code == 7, output
    nested = [sum(i * i for i in range(n)) for n in range(7)]
    assert f"[0, 1, 4, 9, 16] {[sum(nested[:n]) for n in range(7)]}" in output
    assert "unexpected" not in output
    assert "[7, 8]" in output


@pytest.mark.process
@pytest.mark.parametrize("end", ["2>&-", "2> >(exit 0)"])
def test_nobody_need_listen_to_standard_error(tasks: Path, end: str) -> None:
    command = [sys.executable, *LAUNCHER, "-n", "1", str(tasks), "work"]
    done = subprocess.run(["bash", "-c", f"sleep 0.2; {shlex.join(command)} {end}"], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 7
    assert b"[7, 8]" in done.stdout


@pytest.mark.process
def test_modules_are_looked_for_beside_the_script_first(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "common.py").write_text(f"def where(i):\n    return {folder.name!r}\n")
    script = (
        "import common\nfrom scoop import futures\nif __name__ == '__main__':\n    print(*futures.map(common.where, [1]))\n"
    )
    (tmp_path / "sub" / "script.py").write_text(script)
    code, output = python_anew(*LAUNCHER, "-n", 1, "sub/script.py", folder=tmp_path, deadline=60)
    assert code == 0, output
    assert "sub\n" in output


@pytest.mark.process
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("raise", "ValueError: bad task"),
        ("exit", "a task ended by SystemExit"),
        ("lambda", "the result cannot be pickled"),
        ("kill", "3 workers ended at it"),
        ("unpicklable", "cannot be sent to workers"),
    ],
)
def test_what_goes_wrong_in_a_task_reaches_the_user(tasks: Path, mode: str, message: str) -> None:
    code, output = python_anew(*LAUNCHER, "-n", 1, tasks, mode, deadline=60)
    assert code == 1, output
    assert message in output
    if mode in ("raise", "exit"):
        assert f'{tasks}", line' in output  # the worker's traceback
        assert "in bad" in output


@pytest.mark.process
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_go_to_the_script(tasks: Path, number: signal.Signals, status: int) -> None:
    process = start([*LAUNCHER, "-n", "2", str(tasks), "interrupt"])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    everyone = Processes(process).all
    process.send_signal(number)
    code, output = finish(process, 30)
    assert code == status, output
    assert ("cleaned up" in output) == (number == signal.SIGINT)
    assert "Traceback" not in output
    assert_all_end(everyone)


@pytest.mark.process
def test_exceptions_of_the_scripts_handlers_reach_it(tasks: Path) -> None:
    code, output = python_anew(*LAUNCHER, "-n", 1, tasks, "alarm", deadline=60)
    assert code == 5, output


def sleepers(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("sleeper-")) for path in folder.glob("sleeper-*")]


@pytest.mark.process
def test_what_workers_start_ends_with_them(tasks: Path, tmp_path: Path) -> None:
    code, output = python_anew(*LAUNCHER, "-n", 1, tasks, "sleepers", tmp_path, deadline=60)
    assert code == 0, output
    assert len(sleepers(tmp_path)) == 2  # of the one that was killed, and of the one that did it again
    assert_all_end(sleepers(tmp_path))


@pytest.mark.process
def test_what_workers_start_ends_with_the_launcher(tasks: Path, tmp_path: Path) -> None:
    for name in ("killed", "wait"):
        (tmp_path / name).touch()
    process = start([*LAUNCHER, "-n", "1", str(tasks), "sleepers", str(tmp_path)])
    wait_for(process, lambda: bool(sleepers(tmp_path)))
    process.kill()
    finish(process, 30)
    assert_all_end(sleepers(tmp_path))


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", 0, __file__], "n is 0; expected the number of workers"),
        (["-n", 1, "nosuch.py"], "there is no script"),
        (["-n", 1, "--listen", "0.0.0.0", __file__], "every interface"),
        (["-n", 1, "--listen", "nosuch.invalid", __file__], "has no address"),
        (["-n", 1, "--listen", "203.0.113.7", __file__], "cannot listen on 203.0.113.7"),
        (["-n", 1, "--attempts", 0, __file__], "attempts is 0"),
        (["--hostfile", "nosuch", __file__], "cannot read the hosts"),
        (["--hosts", "nodeb", "--ssh", "nosuch -p 1", __file__], "there is no such command"),
    ],
)
def test_bad_options_end_with_one_message(arguments: list[object], message: str) -> None:
    code, output = python_anew(*LAUNCHER, *arguments, deadline=30)
    assert code == 2, output
    assert output.startswith("error: ")
    assert message in output


@pytest.mark.process
def test_workers_that_cannot_start_end_the_run(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("from scoop import futures\nif __name__ != '__main__':\n    raise ImportError('no torch here')\n"
                      "print(list(futures.map(abs, range(3))))\n")  # fmt: skip
    code, output = python_anew(*LAUNCHER, "-n", 1, script, deadline=60)
    assert code == 1, output
    assert "ImportError: no torch here" in output
    assert "no worker can be started" in output


@pytest.mark.process
def test_keys_are_in_no_list_of_processes(tasks: Path) -> None:
    process = start([*LAUNCHER, "-n", "1", str(tasks), "interrupt"])
    assert process.stdout is not None
    process.stdout.readline()
    wait_for(process, lambda: len(Processes(process).workers) == 1)  # it is started after the script
    mine = Processes(process).commands.values()
    assert sorted(line.split("-m ")[1] for line in mine) == ["evoprune.scoop.process 127.0.0.1/1", SCRIPT]
    process.kill()
    finish(process)
