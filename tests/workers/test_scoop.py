"""The launcher of SCOOP's workers, with real processes that are killed, hang, and are attacked."""

import csv
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq
from support.comparing import assert_it_alone_failed, assert_same, least_fit
from support.fleet import assert_all_end, evaluations, listening
from support.processes import finish, kill_group, python_anew, start, wait_for

import evoprune as ep

LAUNCHER = ("-m", "evoprune.scoop")
WORKER = re.compile(r"evoprune\.scoop\.process \S+/\d+")
SCRIPT = "evoprune.scoop.process script"


class Processes:
    """The processes of a launcher."""

    def __init__(self, launcher: subprocess.Popen[str]) -> None:
        self.launcher = launcher

    @property
    def commands(self) -> dict[int, str]:
        """The command lines of its children, by process id."""
        everything = psutil.process_iter(["ppid", "cmdline"])
        return {p.pid: " ".join(p.info["cmdline"] or ()) for p in everything if p.info["ppid"] == self.launcher.pid}

    @property
    def workers(self) -> list[int]:
        return [pid for pid, command in self.commands.items() if WORKER.search(command)]

    @property
    def script(self) -> int:
        (pid,) = (pid for pid, command in self.commands.items() if SCRIPT in command)
        return pid

    @property
    def all(self) -> list[int]:
        return [self.launcher.pid, *self.commands]


@pytest.fixture
def launch(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the script with workers, in a folder of the test's own, and ends what a failed test leaves."""
    started = []

    def call(n: int, *options: object, **environment: object) -> subprocess.Popen[str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        started.append(start([*LAUNCHER, "-n", n, *options, script, tmp_path / "run"]))
        return started[-1]

    yield call
    for process in started:
        if process.returncode is None:
            kill_group(process)
            finish(process)


@pytest.mark.process
@pytest.mark.parametrize("n", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_workers_give_the_serial_result(
    whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path, n: int
) -> None:
    code, output = finish(launch(n))
    assert code == 0, output
    assert_same(whole, tmp_path / "run")
    with (tmp_path / "run" / "evaluations.csv").open(newline="") as file:
        assert min(n, 2) <= len({row["worker"] for row in csv.DictReader(file)}) <= n
    assert "tasks done" in output


@pytest.mark.process
def test_every_worker_killed_at_work_one_after_another(
    whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = launch(2)
    there = Processes(process)
    wait_for(process, lambda: evaluations(tmp_path / "run") > 0)
    first = there.workers
    assert len(first) == 2
    for pid in first:
        before = evaluations(tmp_path / "run")
        os.kill(pid, signal.SIGKILL)
        wait_for(process, lambda before=before: evaluations(tmp_path / "run") > before)
    everyone = there.all
    code, output = finish(process)
    assert code == 0, output
    assert output.count("ended: killed by SIGKILL; another takes its place") == 2
    assert_same(whole, tmp_path / "run")
    assert_all_end(everyone)


@pytest.mark.process
@pytest.mark.slow
def test_a_worker_that_hangs_as_a_whole_is_replaced(
    whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = launch(2)
    wait_for(process, lambda: evaluations(tmp_path / "run") > 0)
    os.kill(Processes(process).workers[0], signal.SIGSTOP)
    code, output = finish(process)
    assert code == 0, output
    assert "it cannot be reached; another takes its place" in output
    assert_same(whole, tmp_path / "run")


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def attack(port: int, marker: Path) -> None:
    """Sends a payload as every kind of message, without keys and with keys of its own, as a new client and as a known one."""
    payload = pickle.dumps(Payload(marker))
    stranger, broker = zmq.curve_keypair(), zmq.curve_keypair()
    context = zmq.Context()
    for identity in (b"stranger", b"script", b"127.0.0.1/1"):
        for with_keys in (False, True):
            socket = context.socket(zmq.DEALER)
            socket.identity, socket.linger = identity, 500
            if with_keys:
                socket.curve_serverkey, (socket.curve_publickey, socket.curve_secretkey) = broker[0], stranger
            socket.connect(f"tcp://127.0.0.1:{port}")
            for kind in (b"I", b"T", b"RP", b"V", b"F", b"SU", b"C"):
                socket.send_multipart([kind, payload, payload, payload])
            time.sleep(0.3)
            socket.close()
    context.term()


@pytest.mark.slow
@pytest.mark.process
def test_an_idle_worker_killed_and_a_stranger_at_the_door(
    whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = launch(2, PAUSE=1)
    there = Processes(process)
    wait_for(process, (tmp_path / "paused").exists)
    ((host, port),) = listening(there.all)  # the broker's; workers listen on nothing
    assert host == "127.0.0.1"

    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # such is the payload
    marker.unlink()
    attack(port, marker)

    os.kill(there.workers[0], signal.SIGKILL)
    began = time.monotonic()
    (tmp_path / "go").touch()
    code, output = finish(process)
    assert code == 0, output
    assert time.monotonic() - began < 60
    assert not marker.exists()
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("part", ["script", pytest.param("launcher", marks=pytest.mark.slow)])
def test_the_script_or_the_launcher_killed(
    whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path, part: str
) -> None:
    process = launch(2)
    there = Processes(process)
    wait_for(process, lambda: evaluations(tmp_path / "run") > 5)
    everyone = there.all
    assert len(everyone) == 4
    os.kill(there.script if part == "script" else process.pid, signal.SIGKILL)
    code, output = finish(process, 30)
    assert code == (137 if part == "script" else -signal.SIGKILL), output
    assert_all_end(everyone)
    assert not (tmp_path / "run" / "result.json").exists()
    code, output = finish(launch(2))
    assert code == 0, output
    assert_same(whole, tmp_path / "run")


@pytest.mark.sampled(1)
@pytest.mark.process
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("kill", "2 workers ended at it; the last: .* killed by SIGKILL"),
        pytest.param("hang", "took longer than --evaluation-timeout allows", marks=pytest.mark.slow),
        ("raise", "ValueError: poisoned"),
        pytest.param("exit", r"SystemExit\(3\)", marks=pytest.mark.slow),
        pytest.param("rubbish", "a worker returned rubbish: ", marks=pytest.mark.slow),
    ],
)
def test_a_hostile_mask_gets_the_worst_fitness(
    whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path, behaviour: str, reason: str
) -> None:
    poison = least_fit(whole)
    timeout = {"TIMEOUT": 2} if behaviour == "hang" else {}
    process = launch(2, "--attempts", 2, BEHAVIOUR=behaviour, POISON=poison, **timeout)
    everyone: list[int] = []
    wait_for(process, lambda: evaluations(tmp_path / "run") > 5)
    everyone = Processes(process).all
    code, output = finish(process)
    assert code == 0, output
    assert_it_alone_failed(tmp_path / "run", whole, poison, reason)
    if behaviour == "hang":
        assert "in term" in output  # where it hung
    assert_all_end(everyone)


@pytest.mark.slow
@pytest.mark.process
def test_two_hosts_take_part(whole: Path, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """A second host is one whose name is another, and that is reached by something like ssh."""
    if subprocess.run(["unshare", "-ru", "hostname", "nodeb"], capture_output=True, check=False).returncode:
        pytest.skip("unshare cannot give a process another host name here")
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\nexec unshare -ru sh -c "hostname $1; $2"\n')
    ssh.chmod(0o755)
    process = launch(2, "--hosts", "127.0.0.1", "nodeb", "--ssh", ssh, "--listen", "127.0.0.1", "--attempts", 3)
    code, output = finish(process)
    assert code == 0, output
    assert_same(whole, tmp_path / "run")
    with (tmp_path / "run" / "evaluations.csv").open(newline="") as file:
        hosts = {row["worker"].rpartition(":")[0] for row in csv.DictReader(file)}
    assert len(hosts) == 2
    assert "nodeb" in hosts


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


@pytest.mark.slow
@pytest.mark.process
def test_stock_launcher_works_with_one_warning(script: Path, whole: Path, tmp_path: Path) -> None:
    code, output = python_anew("-m", "scoop", "-n", 2, script, tmp_path / "run")
    assert code == 0, output
    assert output.count("warning: SCOOP's own launcher") == 1
    assert "use: python -m evoprune.scoop -n N script.py" in output
    assert_same(whole, tmp_path / "run")


def test_a_timeout_needs_workers() -> None:
    with pytest.raises(ep.InputError, match=r"python -m evoprune\.scoop"):
        ep.workers.choose_workers("auto", 3.0)
    with pytest.raises(ep.InputError, match="expected a number of seconds above 0"):
        ep.workers.choose_workers("auto", -1.0)
    with pytest.raises(ep.InputError, match="workers are an object"):
        ep.workers.choose_workers(ep.workers.Serial(), 3.0)


@pytest.mark.process
def test_importing_the_launcher_does_not_import_torch() -> None:
    code = "import sys, evoprune.scoop.launcher; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
