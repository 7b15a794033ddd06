"""Comparisons whose workers have a GPU each: on a GPU that is not there, see support/elsewhere.py."""

import json
from pathlib import Path

import pytest
import torch
from support.elsewhere import cuda_elsewhere
from torch import nn

import evoprune as ep
from evoprune.cli.main import run
from evoprune.comparison import course
from evoprune.errors import InputError
from evoprune.system.devices import VISIBLE
from evoprune.workers.choose import choose_workers
from evoprune.workers.pool import Pool
from evoprune.workers.serial import Serial

FEW = {"methods": ("dense", "erk"), "sparsities": (0.5,), "seeds": 1, "engine": "module"}


def subject(tensors: ep.Data, device: str) -> ep.Problem:
    torch.manual_seed(0)
    return ep.Problem(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), tensors, ep.Recipe(epochs=1), device=device)


def test_each_worker_has_a_gpu_which_is_no_part_of_the_comparison(
    tensors: ep.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "4,7")
    chosen: list[Pool] = []

    def choose(*given: str, **options: tuple[str, ...]) -> Serial:
        workers = choose_workers(*given, **options)  # type: ignore[arg-type]
        assert isinstance(workers, Pool)  # which starts its processes when they have work
        chosen.append(workers)
        return Serial()

    monkeypatch.setattr(course, "choose_workers", choose)
    with cuda_elsewhere(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        problem = subject(tensors, "cuda")
        for devices, out in ((("cuda:1", "cuda:0"), "with"), ((), "without")):
            ep.compare(problem, **FEW, workers="pool:2", devices=devices, out=tmp_path / out)
    assert [workers._devices for workers in chosen] == [[{VISIBLE: "7"}, {VISIBLE: "4"}], []]
    names = ("cells.csv", "compare.json")
    with_them, without = ([(tmp_path / out / name).read_text() for name in names] for out in ("with", "without"))
    assert json.loads(with_them[1]) == json.loads(without[1])
    assert "cuda:1" not in with_them[0]


def test_devices_that_do_not_go_with_the_comparison_are_refused_before_it_begins(tensors: ep.Data, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="devices are cuda:0, but the device is cpu; expected cuda"):
        ep.compare(subject(tensors, "cpu"), **FEW, workers="pool:1", devices="cuda:0", out=out)
    with cuda_elsewhere():
        problem = subject(tensors, "cuda")
        for options, said in (
            ({"devices": ("cuda:1",), "workers": "pool:1"}, "1 GPUs are here, and no cuda:1"),
            ({"devices": ("cuda:0",), "workers": "pool:2"}, "2 workers for 1 devices"),
            ({"devices": ("cuda:0",)}, "but workers are 'auto'; expected pool:N or dask:N"),
            ({"devices": ("gpu",), "workers": "pool:1"}, "expected names such as cuda:0 cuda:1"),
        ):
            with pytest.raises(InputError, match=said):
                ep.compare(problem, **FEW, **options, out=out)
    assert not out.exists()


def test_the_command_line_has_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--model", "mlp", "--widths", "8", "--methods", "erk", "--seeds", "1", "--sparsities", "0.5"]
    place = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(
        "sys.argv", ["evoprune", "compare", *few, *place, "--workers", "pool:2", "--devices", "cuda:0", "cuda:1"]
    )
    with pytest.raises(SystemExit):
        run()
    assert "devices are cuda:0 cuda:1, but the device is cpu; expected cuda (--device cuda)" in capsys.readouterr().err
