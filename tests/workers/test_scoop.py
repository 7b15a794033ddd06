"""Searches on SCOOP's workers: the serial result, whatever is killed."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from support.comparing import assert_it_alone_failed, assert_same, least_fit
from support.fleet import assert_all_end, evaluations, listening
from support.launching import LAUNCHER, Processes
from support.processes import finish, kill_group, python_anew, start, wait_for

import evoprune as ep


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
