import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evoprune.masks.snapshot import Snapshot
from evoprune.operators import Evidence
from evoprune.runs.checkpoints import Checkpoints, read_checkpoint
from evoprune.runs.tensors import pack_tensors, parts_of

MASKS = [name * 64 for name in "abc"]
FLIPS = [*range(0, 400, 5), *range(400, 4000, 37)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def compute() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return {"loss": math.inf, "epochs": [1, 2], "text": "ä"}, {"w": torch.tensor([0.1, 0.2])}


def never() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    raise AssertionError("computed again")


def flip(path: Path, bit: int) -> bool:
    content = bytearray(path.read_bytes())
    if bit >= 8 * len(content):
        return False
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)
    return True


def found_again(checkpoints: Checkpoints) -> str:
    """Returns how a step whose files were changed comes back: as it was, or computed again with a warning."""
    computed = []

    def again() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        computed.append(1)
        return compute()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        facts, tensors = checkpoints.step("winner", again)
    assert facts == {"loss": None, "epochs": [1, 2], "text": "ä"}
    assert tensors["w"].equal(torch.tensor([0.1, 0.2]))
    assert len(computed) == sum("winner.json is damaged" in str(warning.message) for warning in caught)
    return "computed again" if computed else "as it was"


def test_a_step_is_read_back(tmp_path: Path) -> None:
    facts, tensors = Checkpoints(tmp_path).step("winner", compute)
    assert facts == {"loss": None, "epochs": [1, 2], "text": "ä"}
    again, back = Checkpoints(tmp_path).step("winner", never)
    assert again == facts
    assert back["w"].equal(tensors["w"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_every_flipped_bit_of_a_step_is_noticed_or_harmless(tmp_path: Path, kind: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.step("winner", compute)
    whole = {path: path.read_bytes() for path in (tmp_path / "winner.json", tmp_path / "winner.safetensors")}
    outcomes = set()
    for bit in FLIPS:
        for path, content in whole.items():
            path.write_bytes(content)
        if flip(tmp_path / f"winner.{kind}", bit):
            outcomes.add(found_again(checkpoints))
    assert "computed again" in outcomes


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\0" * 90)])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_damaged_step_is_made_again(tmp_path: Path, kind: str, damage: Callable[[Path], object]) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.step("winner", compute)
    damage(tmp_path / f"winner.{kind}")
    if kind == "json" and not (tmp_path / "winner.json").exists():  # the step was never finished
        checkpoints.step("winner", compute)
    else:
        with pytest.warns(UserWarning, match=r"winner\.json is damaged .* it is made again"):
            checkpoints.step("winner", compute)
    assert checkpoints.step("winner", never)[0]["epochs"] == [1, 2]


def apart(found: list[Evidence]) -> dict[str, tuple[Evidence | None, Snapshot | None]]:
    return {evidence.mask: (evidence, None) for evidence in found}


def test_evidence_comes_back_by_generation(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    found = [Evidence(mask, np.array([i, 5]), np.array([], np.int32)) for i, mask in enumerate(MASKS)]
    checkpoints.save_findings(2, apart(found[:2]))
    checkpoints.save_findings(2, apart(found[2:]))
    back = checkpoints.load_findings(2)
    assert [(mask, evidence.still.tolist(), evidence.grow.tolist()) for mask, (evidence, _) in back.items()] == [
        (mask, [i, 5], []) for i, mask in enumerate(MASKS)
    ]
    assert back[MASKS[0]][0].grow.dtype == np.int32
    assert checkpoints.load_findings(1) == {}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_every_flipped_bit_of_evidence_is_missing_or_harmless(tmp_path: Path, kind: str) -> None:
    checkpoints, (mask, *_) = Checkpoints(tmp_path), MASKS
    checkpoints.save_findings(2, apart([Evidence(mask, np.arange(3), np.arange(2))]))
    place = tmp_path / "evidence-000002"
    whole = {path: path.read_bytes() for path in place.iterdir()}
    lost = 0
    for bit in FLIPS:
        for path, content in whole.items():
            path.write_bytes(content)
        if flip(place / f"{mask}.{kind}", bit):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = checkpoints.load_findings(2)
            lost += not found
            assert {h: (e.still.tolist(), e.grow.tolist()) for h, (e, _) in found.items()} in ({}, {mask: ([0, 1, 2], [0, 1])})
    assert lost


def test_states_and_evidence_that_are_no_longer_needed_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for gen in range(5):
        checkpoints.save_findings(gen, apart([Evidence(MASKS[0], np.array([1]), np.array([2]))]))
        checkpoints.save_state(gen + 1, {"gen": gen + 1}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evidence-000004", *(f"generation-{gen:06d}.{kind}" for gen in (4, 5) for kind in ("json", "safetensors"))
    ]  # fmt: skip
    assert checkpoints.load_state(lambda facts, _: facts["gen"]) == 5


def test_after_a_generation_all_is_dropped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for gen in (1, 2):
        checkpoints.save_findings(gen, apart([Evidence(MASKS[0], np.array([1]), np.array([2]))]))
        checkpoints.save_state(gen, {}, {})
    (tmp_path / "generation-000002.json").rename(tmp_path / "generation-000002.json.damaged")
    checkpoints.step("bests-0", compute)
    checkpoints.step("starts", compute)
    checkpoints.drop_after(1)
    kept = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert kept == {"evidence-000001", "generation-000001", "starts"}


def test_a_checkpoint_is_packed_once_with_its_checksum(quick: None, tmp_path: Path) -> None:
    tensors = {"w": torch.tensor([0.1, 0.2]), "0" * 64: torch.tensor([1, 2])}
    Checkpoints(tmp_path).write("step", {"loss": 1.0}, tensors)
    content = (tmp_path / "step.safetensors").read_bytes()
    _, metadata, _ = parts_of(content)
    assert metadata is not None
    assert metadata["sha256"] != "0" * 64
    assert content == pack_tensors(tensors, metadata)
    facts, back = read_checkpoint(tmp_path / "step.json")
    assert facts == {"loss": 1.0}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
