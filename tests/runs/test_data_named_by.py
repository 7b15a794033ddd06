"""The record of a run says which data are identified by something else than the digest of their content."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

import evoprune as ep
from evoprune.problem.data import Data

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[i]) + torch.randn(4) / 100, int(Y[i])


def recorded(data: Data, folder: Path) -> dict[str, object]:
    problem = ep.Problem("mlp", data, ep.Recipe(epochs=1), widths=(3,))
    ep.prune(problem, "erk", sparsity=0.5, engine="module", out=folder)
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    assert config["problem_hash"] == problem.hash
    return config


def mapped(path: Path) -> np.ndarray:
    np.save(path, X)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def test_a_memory_map_is_said_to_be_identified_by_its_file(tmp_path: Path) -> None:
    data = Data(train=(mapped(tmp_path / "a.npy"), Y), test=(X, Y))
    assert recorded(data, tmp_path / "run")["data_named_by"] == {
        "train": f"path, size and time of change of {tmp_path / 'a.npy'}"
    }
    assert (tmp_path / "run" / "result.json").exists()
    recorded(data, tmp_path / "run")  # which is resumed as it is


def test_a_data_set_that_draws_is_said_to_be_identified_by_its_name(tmp_path: Path) -> None:
    assert recorded(Data(train=Noisy(), identity="noisy-1"), tmp_path)["data_named_by"] == {"train": "the name noisy-1"}


def test_data_of_a_known_content_have_no_other_name(tmp_path: Path) -> None:
    assert "data_named_by" not in recorded(Data(train=(X, Y)), tmp_path)
