"""Configurations of a stranger, and damaged tensors."""

import json
from pathlib import Path

import pytest
import torch

import evoprune as ep
from evoprune.problem.identity import VERSION
from evoprune.runs import sums
from evoprune.runs.run import SCHEMA, Run

CONFIG = {"schema": SCHEMA, "method": "kstarts", "settings": {}, "execution": {}, "divisors": {}, "identity_version": VERSION,
          "identity": {"data": "a"}}  # fmt: skip


CHANGED = [
    {"settings": 1},
    {"method": []},
    {"execution": []},
    {"execution": {"threads": "9"}},
    {"execution": {"threads": 10**9}},
    {"execution": {"engine": 3}},
    {"divisors": {"a": []}},
    {"divisors": []},
    {"identity": None},
    {"identity": {"data": 3}},
    {"identity_version": "1"},
    {"schema": [1]},
]


CONFIGS = ["{}", "[]", "null", "3", "{", "\xff", "[" * 100_000, json.dumps({"schema": SCHEMA}),
           *(json.dumps(sums.seal({**CONFIG, **change})) for change in CHANGED), json.dumps(CONFIG)]  # fmt: skip


@pytest.mark.parametrize("content", CONFIGS, ids=lambda content: content[:60])
def test_a_configuration_of_a_stranger(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, "latin-1")
    with pytest.raises(ep.InputError):
        Run.plan(tmp_path, "kstarts", {})
    sums.write_sealed(tmp_path / "config.json", CONFIG)
    assert Run.plan(tmp_path, "kstarts", {}).identity == {"data": "a"}


def test_a_configuration_names_no_place() -> None:
    config = ep.Problem(model="mlp", data="digits").config()
    with pytest.raises(ep.InputError, match="names a data_dir"):
        ep.Problem.from_config({**config, "data_dir": "/etc"})


@pytest.mark.parametrize("content", [b"", b"x" * 100, (2**60).to_bytes(8, "little") + b"{}", b"\2\0\0\0\0\0\0\0{}garbage"])
def test_damaged_tensors_are_named_and_made_again(tmp_path: Path, digits: ep.Problem, content: bytes) -> None:
    with Run.plan(tmp_path / "run", "kstarts", {}).of(digits) as run:
        run.step("mask", lambda: ({}, {"bits": torch.zeros(3)}))
        (run.checkpoint / "mask.safetensors").write_bytes(content)
        with pytest.warns(UserWarning, match=r"mask\.json is damaged .*made again"):
            _, tensors = run.step("mask", lambda: ({}, {"bits": torch.zeros(3)}))
    assert tensors["bits"].tolist() == [0.0] * 3
