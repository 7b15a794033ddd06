"""The benchmark of inference, at the smallest size."""

import importlib.util
import runpy
import time
from typing import Any

import pytest
import torch
from support.processes import ROOT

names: dict[str, Any] = runpy.run_path(str(ROOT / "experiments" / "benchmark_inference.py"), run_name="benchmark_inference")


def test_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "onnxruntime" else found(name, *more))
    threads = torch.get_num_threads()
    options = names["InferenceOptions"](
        models=("mlp", "lenet-5"), widths=(8,), sparsities=(0.5, 0.9), batches=(2,), training_batch=3, repeats=1
    )
    try:
        names["main"](options)
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr()
    assert "onnxruntime or onnxscript is not installed, and is left out" in said.err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.out.splitlines() if line.startswith("| ")]
    forward = [row for row in rows if len(row) == 7 and row[0] in ("mlp", "lenet-5")]
    assert [row[:3] for row in forward] == [[m, "2", s] for m in ("mlp", "lenet-5") for s in ("50%", "90%")]
    assert all(float(row[4]) > 0 and row[6] == "—" for row in forward)
    assert [row[5] == "—" for row in forward] == [False, False, True, True]  # CSR serves linear layers alone
    assert [row[1:3] for row in rows if len(row) == 5 and row[0] == "mlp"] == [["3", "50%"], ["3", "90%"]]


@pytest.mark.parametrize(("block", "calls"), [(0.0, 1), (0.001, 1), (0.005, 8)])
def test_a_block_is_as_many_calls_as_fill_it(block: float, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]  # milliseconds; a call takes one
    monkeypatch.setattr(time, "process_time", lambda: clock[0] / 1000)

    def call() -> None:
        clock[0] += 1

    assert names["calls_of"](call, block) == calls
    assert names["seconds_of"](call, 4) == pytest.approx(0.001)
