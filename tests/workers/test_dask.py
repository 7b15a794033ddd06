"""Evaluation on Dask's workers, with real clusters that lose workers and schedulers."""

import csv
import importlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.comparing import assert_it_alone_failed, assert_same, least_fit
from support.fleet import assert_all_end, evaluations, listening
from support.processes import finish, start, wait_for

import evoprune as ep
from evoprune.evaluation.job import Job
from evoprune.evaluation.terms import Outcome, Term

pytest.importorskip("distributed", reason="Dask is an extra: pip install 'evoprune[dask]'")

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts the script with Dask's workers, in a folder of the test's own."""

    def call(workers: str, **environment: object) -> subprocess.Popen[str]:
        for name, value in {"WORKERS": workers, **environment}.items():
            monkeypatch.setenv(name, str(value))
        return start([str(script), str(tmp_path / "run")])

    return call


def worker_pids(folder: Path) -> list[int]:
    with (folder / "evaluations.csv").open(newline="") as file:
        return sorted({int(row["worker"].rpartition(":")[2]) for row in csv.DictReader(file)})


class Cluster:
    """A scheduler and workers of one thread, as users start them."""

    def __init__(self, folder: Path, *options: str, protocol: str = "tcp", threads: int = 1) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.port = f"{protocol}://127.0.0.1:{port}", port
        own = ["--host", f"{protocol}://127.0.0.1", "--no-dashboard", *options]
        self.log = (folder / "cluster.log").open("a")
        self.scheduler = self._start("scheduler", "--port", str(port), *own)
        self.workers = [self._start("worker", self.address, "--nthreads", str(threads), *own) for _ in range(2)]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        return subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in [self.scheduler, *self.workers]]

    def end(self) -> None:
        for pid in self.pids:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in [self.scheduler, *self.workers]:
            process.wait()
        self.log.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(*options: str, **more: object) -> Cluster:
        made.append(Cluster(tmp_path, *options, **more))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.mark.process
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_give_the_serial_result(whole: Path, run: Run, tmp_path: Path, n: int) -> None:
    process = run(f"dask:{n}")
    wait_for(process, lambda: evaluations(tmp_path / "run") > 5)
    pids = worker_pids(tmp_path / "run")
    assert 1 <= len(pids) <= n
    assert process.pid not in pids
    everyone = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    assert {host for host, _ in listening(everyone)} == {"127.0.0.1"}
    code, output = finish(process)
    assert code == 0, output
    assert_same(whole, tmp_path / "run")
    assert_all_end(pids)


@pytest.mark.process
def test_a_worker_killed_at_work(whole: Path, run: Run, tmp_path: Path) -> None:
    process = run("dask:2")
    wait_for(process, lambda: evaluations(tmp_path / "run") > 0)
    os.kill(worker_pids(tmp_path / "run")[0], signal.SIGKILL)
    code, output = finish(process)
    assert code == 0, output
    assert_same(whole, tmp_path / "run")


@pytest.mark.process
@pytest.mark.slow
def test_the_script_killed(whole: Path, run: Run, tmp_path: Path) -> None:
    """The scheduler of a local cluster lives in the script's process."""
    process = run("dask:2")
    wait_for(process, lambda: evaluations(tmp_path / "run") > 8)
    pids = worker_pids(tmp_path / "run")
    process.kill()
    process.communicate()
    assert_all_end(pids)
    code, output = finish(run("dask:2"))
    assert code == 0, output
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.process
def test_the_scheduler_killed(whole: Path, run: Run, cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    first = cluster()
    process = run(first.address)
    wait_for(process, lambda: evaluations(tmp_path / "run") > 5)
    first.scheduler.kill()
    code, output = finish(process, 60)
    assert code == 1, output
    assert f"error: the scheduler at {first.address} is lost" in output, output
    assert "the same command resumes" in output
    for worker in first.workers:
        worker.wait(60)
    assert_all_end(worker_pids(tmp_path / "run"))
    assert not (tmp_path / "run" / "result.json").exists()
    code, output = finish(run(cluster().address))
    assert code == 0, output
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("kill", "workers died at it, the last on tls://127.0.0.1:[0-9]+"),
        pytest.param("hang", "workers died at it, the last on .*; evaluation_timeout is 1 s", marks=pytest.mark.slow),
        pytest.param("raise", "ValueError: poisoned", marks=pytest.mark.slow),
        pytest.param("rubbish", "a worker returned rubbish: ", marks=pytest.mark.slow),
    ],
)
def test_a_hostile_mask_gets_the_worst_fitness(whole: Path, run: Run, tmp_path: Path, behaviour: str, reason: str) -> None:
    poison = least_fit(whole)
    timeout = {"TIMEOUT": 1} if behaviour == "hang" else {}
    code, output = finish(run("dask:2", BEHAVIOUR=behaviour, POISON=poison, **timeout))
    assert code == 0, output
    assert_it_alone_failed(tmp_path / "run", whole, poison, reason)


def is_refused(port: int, ca: Path, *certificate: Path) -> bool:
    """Tells whether a scheduler says nothing to who connects, with a certificate and its key or without."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(*certificate)
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw) as channel:
            return channel.recv(1) == b""
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.process
def test_tls_with_certificates_and_without(
    whole: Path, run: Run, cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Security

    made = Security.temporary()
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    for path, content in ((ca, made.tls_ca_file), (certificate, made.tls_client_cert), (key, made.tls_client_key)):
        path.write_text(content)
    secured = cluster("--tls-ca-file", str(ca), "--tls-cert", str(certificate), "--tls-key", str(key), protocol="tls")
    code, output = finish(run(secured.address), 60)  # without
    assert code == 2, output
    assert f"error: workers are {secured.address!r}, but there are no certificates" in output

    assert is_refused(secured.port, ca)
    assert not is_refused(secured.port, ca, certificate, key)

    for name, path in (("CA_FILE", ca), ("CLIENT__CERT", certificate), ("CLIENT__KEY", key)):
        monkeypatch.setenv(f"DASK_DISTRIBUTED__COMM__TLS__{name}", str(path))
    code, output = finish(run(secured.address))
    assert code == 0, output
    assert_same(whole, tmp_path / "run")


def evaluated(problem: ep.Problem, workers: str, fitness: str | Term = "loss", generations: int = 1) -> list[tuple[float, ...]]:
    """Returns the fitness of four masks a generation."""
    toolbox = ep.make_toolbox(problem, sparsity=0.8, fitness=fitness, fitness_epochs=1, workers=workers, chunk_size=2)
    with toolbox.map.func:
        return [value for _ in range(generations) for value in toolbox.map(toolbox.evaluate, toolbox.population(n=4))]


@pytest.mark.process
def test_a_standing_cluster_has_nothing_of_another_run(
    digits: ep.Problem,
    cluster: Callable[..., Cluster],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script may be edited between two runs; what one sends is sent once, and not left behind."""
    from distributed import Client

    from evoprune.workers import dask_cluster

    standing, made = cluster(), []
    address = standing.address
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2)  # one that joins later is sent the job beside those that may be on their way twice
    payload = Job.payload.fget

    def counted(job: Job) -> bytes:
        made.append(job.key)
        return payload(job)

    monkeypatch.setattr(Job, "payload", property(counted))
    for sign in (1.0, -1.0):

        def mine(outcome: Outcome, sign: float = sign) -> np.ndarray:
            return sign * outcome.validation.loss

        assert evaluated(digits, address, mine, generations=2) == evaluated(digits, "serial", mine, generations=2)
    assert evaluated(digits, address) == evaluated(digits, "serial")
    assert len(set(made)) == 3
    assert len(made) <= 2 * 3  # to each worker once
    with Client(address, set_as_default=False) as client:
        assert list(client.run(lambda: len(sys.modules["evoprune.evaluation.job"]._jobs)).values()) == [0, 0]

    (tmp_path / "here_alone.py").write_text("def term(trained, validation):\n    return validation.loss\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ep.RunError, match="No module named 'here_alone'"):
        evaluated(digits, address, importlib.import_module("here_alone").term)

    for worker in standing.workers:
        os.killpg(worker.pid, signal.SIGKILL)
    monkeypatch.setattr(dask_cluster, "LONELY", 0.1)
    with Client(address, set_as_default=False) as client, dask_cluster.watching(client, address):
        end = time.monotonic() + 20
        while f"no workers at {address}" not in capsys.readouterr().err:
            assert time.monotonic() < end


@pytest.mark.slow
@pytest.mark.process
def test_clusters_that_cannot_serve(run: Run, cluster: Callable[..., Cluster]) -> None:
    code, output = finish(run("tcp://127.0.0.1:9"), 60)
    assert code == 2, output
    assert "error: no scheduler answers at tcp://127.0.0.1:9" in output
    threaded = cluster(threads=2)
    code, output = finish(run(threaded.address), 60)
    assert code == 2, output
    assert "expected workers of one thread: dask worker" in output


@pytest.mark.parametrize(
    "name",
    ["dask:0", "dask:", "dask:two", "dusk:2", "http://host:80", "tcp://", "tcp://host", "tcp://host:two", "tls://:8786"],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ep.InputError, match=r"expected .*dask:N"):
        ep.workers.choose_workers(name)


def test_dask_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ep.InputError, match=r"pip install 'evoprune\[dask\]'"):
        ep.workers.choose_workers("dask:2")
