"""Each worker sees a GPU alone: by its environment, which needs no GPU to be set."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import evoprune as ep
from evoprune.errors import InputError
from evoprune.scoop.launcher import Launcher, Worker
from evoprune.scoop.options import parse, share_devices
from evoprune.search.execution import Execution
from evoprune.system.devices import VISIBLE, check_devices, sees
from evoprune.workers.base import Workers
from evoprune.workers.choose import choose_workers, require_devices
from evoprune.workers.policy import run
from evoprune.workers.pool import Pool


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)


def test_devices_are_counted_among_those_that_this_process_sees() -> None:
    assert sees("") == {}
    assert sees("cuda:3", {}) == {VISIBLE: "3"}
    assert [sees(f"cuda:{i}", {VISIBLE: "5, GPU-1f,2"})[VISIBLE] for i in range(3)] == ["5", "GPU-1f", "2"]
    for given in ("5", ""):
        with pytest.raises(InputError, match=f"device is cuda:1, but {VISIBLE} is '{given}'"):
            sees("cuda:1", {VISIBLE: given})


@pytest.mark.parametrize(
    "devices", [("cuda",), ("cpu",), ("cuda:x",), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:01"), ("cuda:-1",)]
)
def test_names_of_no_devices_are_refused(devices: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="expected names such as cuda:0 cuda:1, each once"):
        check_devices(devices, 1)


def test_more_workers_than_devices_are_refused() -> None:
    message = "3 workers for 2 devices .cuda:0 cuda:1.; expected a device for each: take 2 workers"
    for name in ("pool:3", "dask:3"):
        if name == "dask:3":
            pytest.importorskip("distributed")
        with pytest.raises(InputError, match=message):
            choose_workers(name, None, ("cuda:0", "cuda:1"))
    assert choose_workers("pool:2", None, ("cuda:0", "cuda:1", "cuda:2")).count() == 2


@pytest.mark.parametrize("name", ["serial", "auto", "scoop", "tcp://127.0.0.1:8786"])
def test_workers_that_are_started_elsewhere_get_no_devices_here(name: str) -> None:
    with pytest.raises(
        InputError, match=r"expected pool:N or dask:N.*evoprune.scoop --devices cuda:0 -n 1.*CUDA_VISIBLE_DEVICES"
    ):
        choose_workers(name, None, ("cuda:0",))


def test_devices_go_with_a_problem_on_cuda(monkeypatch: pytest.MonkeyPatch, digits: ep.Problem) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_devices((), "cpu")
    require_devices(("cuda:1", "cuda:0"), "cuda")
    for device in ("cpu", "cuda:1"):
        with pytest.raises(InputError, match=f"the device is {device}; expected cuda"):
            require_devices(("cuda:0",), device)
    with pytest.raises(InputError, match="2 GPUs are here, and no cuda:2"):
        require_devices(("cuda:0", "cuda:2"), "cuda")
    with pytest.raises(InputError, match="the device is cpu"):
        ep.k_starts(digits, k=2, workers="pool:1", devices="cuda:0")


def test_runs_record_devices_only_where_they_are_given() -> None:
    plain = Execution().recorded("module")
    assert "devices" not in plain
    assert "deterministic" not in plain
    given = Execution(devices=["cuda:0", "cuda:1"], deterministic=False).recorded("module", "cuda")  # type: ignore[arg-type]
    assert {**plain, "devices": ["cuda:0", "cuda:1"], "deterministic": False} == given


def visible(seconds: float = 0.0) -> tuple[int, str | None]:
    time.sleep(seconds)
    return os.getpid(), os.environ.get(VISIBLE)


def end_once(marker: str) -> str | None:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(3)
    return os.environ.get(VISIBLE)


@pytest.mark.sampled(1)
@pytest.mark.process
@pytest.mark.parametrize("name", ["pool:2", "dask:2"])
def test_each_process_sees_its_own_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    if name.startswith("dask"):
        pytest.importorskip("distributed")
    monkeypatch.setenv(VISIBLE, "4,7")
    workers = choose_workers(name, None, ("cuda:0", "cuda:1"))
    try:
        found = seen(workers)
        assert sorted(found.values()) == ["4", "7"]
        ((_, again),) = run(workers, end_once, [(str(tmp_path / "ended"),)])
        assert again.value in ("4", "7")  # type: ignore[union-attr]
        after = seen(workers)
        assert sorted(after.values()) == ["4", "7"]
        assert set(after) != set(found)
        assert os.environ[VISIBLE] == "4,7"
    finally:
        workers.close()


def seen(workers: Workers) -> dict[int, Any]:
    """By process; on a busy machine the first may do several tasks before the second is there."""
    found: dict[int, Any] = {}
    deadline = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < deadline:
        found |= dict(outcome.value for _, outcome in run(workers, visible, [(0.5,)] * 4))  # type: ignore[union-attr]
    return found


@pytest.mark.process
def test_without_devices_all_processes_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "4,7")
    workers = Pool("pool:1")
    try:
        assert [outcome.value[1] for _, outcome in run(workers, visible, [()])] == ["4,7"]  # type: ignore[union-attr]
    finally:
        workers.close()


def options_of(tmp_path: Path, *arguments: str) -> Any:
    script = tmp_path / "script.py"
    script.touch()
    return parse([*arguments, str(script)])


def test_the_launcher_shares_devices_out_on_every_host(tmp_path: Path) -> None:
    assert options_of(tmp_path, "-n", "2").devices == ["", ""]
    assert options_of(tmp_path, "--devices", "cuda:1", "cuda:0", "-n", "2").devices == ["cuda:1", "cuda:0"]
    devices = ("cuda:0", "cuda:1")
    assert share_devices(devices, ["localhost", "nodeb", "nodeb", "127.0.0.1"]) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    with pytest.raises(InputError, match="3 workers for 2 devices"):
        share_devices(devices, ["localhost", "127.0.0.1", "nodeb", "localhost"])
    with pytest.raises(InputError, match="3 workers for 2 devices"):
        options_of(tmp_path, "--devices", "cuda:0", "cuda:1", "-n", "3")


def test_the_launcher_orders_each_worker_to_see_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(options_of(tmp_path, "--devices", "cuda:2", "cuda:0", "-n", "2"))
    ordered: list[Any] = []
    monkeypatch.setattr("evoprune.scoop.launcher.spawn", lambda command, orders: ordered.append(orders))
    try:
        for worker in launcher.workers:
            launcher._start(worker)
        launcher._start(launcher.workers[0])  # the one that takes its place
        launcher._start_script()
    finally:
        launcher.broker.close()
    assert [orders.device for orders in ordered] == ["cuda:2", "cuda:0", "cuda:2", ""]
    assert [type(worker) for worker in launcher.workers] == [Worker, Worker]


@pytest.mark.process
def test_workers_of_scoop_see_their_device(tmp_path: Path) -> None:
    from support.processes import python

    script = tmp_path / "look.py"
    script.write_text(
        "import os\nfrom scoop import futures\n\n\ndef look(i):\n    import time\n    time.sleep(1)\n"
        "    return os.environ.get('CUDA_VISIBLE_DEVICES')\n\n\n"
        "if __name__ == '__main__':\n    print(sorted(set(futures.map(look, range(4)))), look(0))\n"
    )
    code, output = python("-m", "evoprune.scoop", "--devices", "cuda:1", "cuda:0", "-n", 2, script)
    assert code == 0, output
    assert "['0', '1'] None" in output
