"""Checkpoints: the results of finished steps and the states of a search, from which a run is resumed.

A checkpoint is two files: ``NAME.safetensors`` with a checksum of both in its metadata, and ``NAME.json``, which is written
last, so that a checkpoint is complete or missing. One that differs from its checksum is set aside with a warning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from evoprune.masks.evidence import Evidence
from evoprune.masks.snapshot import Snapshot
from evoprune.runs import records
from evoprune.runs.tensors import pack_tensors, parts_of, unpack_tensors
from evoprune.system.files import read_bytes, write_atomically

T = TypeVar("T")
# JSON values and tensors
Content: TypeAlias = tuple[dict[str, Any], dict[str, Tensor]]
# The findings of an evaluation beside its fitness.
Findings: TypeAlias = tuple[Evidence | None, Snapshot | None]
Read: TypeAlias = Callable[[dict[str, Any], dict[str, Tensor]], T]
# Errors that reading a damaged file may raise.
DAMAGE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, RuntimeError, SafetensorError)
# States of a search that are kept.
KEPT = 2
# Takes the place of a checksum, until it is known.
_NO_SUM = "0" * 64


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        folder: Their folder; need not exist.
    """

    folder: Path

    def step(self, name: str, compute: Callable[[], Content]) -> Content:
        """Returns the content of a step: read back if the step was finished before, else computed and written.

        Args:
            name: The step's name, unique in the run.
            compute: Does the step.
        """
        found = self._read_or_set_aside(name, "it is made again", _as_it_is)
        if found is not None:
            return found
        facts, tensors = compute()
        return self.write(name, facts, tensors), tensors

    def save_state(self, gen: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Writes the state of a search before a generation, and removes states and evidence that are no longer needed."""
        self.write(f"generation-{gen:06d}", facts, tensors)
        for path in sorted(self.folder.glob("generation-*.json"))[:-KEPT]:
            for file in _files_of(path):
                file.unlink(missing_ok=True)
        for place in self.folder.glob("evidence-*"):
            number = place.name.removeprefix("evidence-")
            if number.isdecimal() and int(number) < gen - 1:
                shutil.rmtree(place)

    def load_state(self, read: Read[T]) -> T | None:
        """Returns the last state of a search that is not damaged; None if there is none.

        Args:
            read: Makes a state of its content; an error of :data:`DAMAGE` says that the content is damaged.
        """
        for path in sorted(self.folder.glob("generation-*.json"), reverse=True):
            found = self._read_or_set_aside(path.stem, "the one before is used", read)
            if found is not None:
                return found
        return None

    def save_findings(self, gen: int, found: Mapping[str, Findings]) -> None:
        """Writes the evidence and snapshots, by key, of masks that were evaluated together in a generation."""
        facts: dict[str, Any] = {"masks": [], "snapshots": {}}
        tensors: dict[str, Tensor] = {}
        for key, (evidence, snapshot) in found.items():
            if evidence is not None:
                facts["masks"].append(key)
                tensors |= evidence_tensors(key, evidence)
            if snapshot is not None:
                facts["snapshots"][key], its = pack_snapshot(key, snapshot)
                tensors |= its
        if tensors:
            self.write(f"evidence-{gen:06d}/{next(iter(found))}", facts, tensors)

    def load_findings(self, gen: int) -> dict[str, Findings]:
        """Returns what :meth:`save_findings` wrote; without that of damaged files, whose masks are evaluated again."""
        place = self.folder / f"evidence-{gen:06d}"
        found: dict[str, Findings] = {}
        for path in sorted(place.glob("*.json")):
            found |= self._read_or_set_aside(f"{place.name}/{path.stem}", "its masks are evaluated again", _findings_of) or {}
        return found

    def drop_after(self, gen: int) -> None:
        """Removes all states and evidence after a generation, and the trainings of the generations' fittest masks."""
        for path in [*self.folder.glob("generation-*"), *self.folder.glob("evidence-*"), *self.folder.glob("bests-*")]:
            number = path.name.removesuffix(".damaged").removesuffix(path.suffix).partition("-")[2].partition(".")[0]
            if path.name.startswith("bests-") or not number.isdecimal() or int(number) > gen:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write(self, name: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Writes a checkpoint, and returns its JSON values as they are read back."""
        path = self.folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = records.as_json(facts)
        packed = pack_tensors(tensors, {"sha256": _NO_SUM})
        content = packed.replace(_NO_SUM.encode(), _checksum(facts, packed).encode(), 1)  # the metadata come first
        write_atomically(path.with_suffix(".safetensors"), content)
        records.write_json(path, facts)
        return facts

    def _read_or_set_aside(self, name: str, consequence: str, read: Read[T]) -> T | None:
        """Returns a checkpoint as ``read`` makes it of JSON values and tensors; None if it is missing or damaged."""
        path = self.folder / f"{name}.json"
        try:
            return read(*read_checkpoint(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not path.exists():
                return None
            reason: Exception = error
        except DAMAGE as error:
            reason = error
        warnings.warn(f"the checkpoint {path} is damaged ({reason}); {consequence}.", stacklevel=4)
        for file in _files_of(path):
            if file.exists():
                file.replace(file.with_name(f"{file.name}.damaged"))
        return None


def _as_it_is(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Content:
    return facts, tensors


def _files_of(path: Path) -> list[Path]:
    return [path, path.with_suffix(".safetensors")]


def _checksum(facts: Mapping[str, Any], packed: bytes) -> str:
    """Returns the checksum of JSON values and of the content of a safetensors file, its metadata aside."""
    header, _, values = parts_of(packed)
    digest = hashlib.sha256(json.dumps([facts, header], sort_keys=True).encode())
    digest.update(values)
    return digest.hexdigest()


def _findings_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Findings]:
    evidence = {key: evidence_of(key, key.partition("-")[0], tensors) for key in facts["masks"]}
    snapshots = {key: unpack_snapshot(key, its, tensors) for key, its in facts.get("snapshots", {}).items()}
    return {key: (evidence.get(key), snapshots.get(key)) for key in {**evidence, **snapshots}}


def evidence_tensors(key: str, evidence: Evidence) -> dict[str, Tensor]:
    """Returns evidence as tensors of a checkpoint."""
    return {f"still/{key}": torch.tensor(evidence.still), f"grow/{key}": torch.tensor(evidence.grow)}


def evidence_of(key: str, mask: str, tensors: Mapping[str, Tensor]) -> Evidence:
    """Returns the evidence that :func:`evidence_tensors` has packed."""
    return Evidence(mask, tensors[f"still/{key}"].numpy(), tensors[f"grow/{key}"].numpy())


def pack_snapshot(key: str, snapshot: Snapshot) -> Content:
    """Returns a snapshot as JSON values and tensors of a checkpoint."""
    facts = snapshot.fields
    return facts, {f"snapshot/{key}/{name}": tensor for name, tensor in facts.pop("tensors").items()}


def unpack_snapshot(key: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
    """Returns the snapshot that :func:`pack_snapshot` has packed."""
    place = f"snapshot/{key}/"
    its = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
    return Snapshot(**facts, tensors=its)


def read_checkpoint(path: Path) -> Content:
    """Reads a checkpoint; raises an error of :data:`DAMAGE` if it differs from the one that was written."""
    facts = json.loads(read_bytes(path))
    if not isinstance(facts, dict):
        raise ValueError("it holds no JSON object")
    packed = read_bytes(path.with_suffix(".safetensors"))
    _, metadata, _ = parts_of(packed)
    if metadata is None or metadata["sha256"] != _checksum(facts, packed):
        raise ValueError("its checksum differs")
    return facts, unpack_tensors(packed)
