"""Run folders of the last schema, brought to this one: files gain their checksums, and checkpoints their one format."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from evoprune.errors import InputError, InUseError
from evoprune.masks.evidence import Evidence
from evoprune.runs import records, sums
from evoprune.runs.checkpoints import DAMAGE, Checkpoints, Content, read_checkpoint
from evoprune.runs.config import OLD, SCHEMA, wrong_values
from evoprune.runs.result import RESULT_FILES
from evoprune.runs.tensors import parts_of, unpack_tensors
from evoprune.system.archive import unpack_arrays
from evoprune.system.files import drop_torn_line, read_bytes, require_own, write_atomically


def migrate_run(folder: Path) -> bool:
    """Brings a run folder to this version's schema; interrupted, it is done by the next call.

    Args:
        folder: The run folder.

    Returns:
        Whether there was anything to do.

    Raises:
        InputError: There is no run, it is of no version that can be migrated, or a file is damaged.
    """
    require_own(folder)
    config = records.read_json(folder / "config.json")
    if config is None:
        raise InputError(f"{folder} holds no run; expected a folder with config.json.")
    if config.get("schema") == SCHEMA:
        return False
    if config.get("schema") not in OLD or (wrong := wrong_values(config)):
        what = f"no proper {', '.join(wrong)}" if config.get("schema") in OLD else f"schema {config.get('schema')!r}"
        raise InputError(f"{folder / 'config.json'} has {what}; expected a run of schema {', '.join(map(str, OLD))}.")
    try:
        with FileLock(folder / ".lock", timeout=0):
            _migrate_evaluations(folder / "evaluations.csv")
            _migrate_checkpoints(folder / "checkpoint")
            if (environment := records.read_json(folder / "environment.json")) is not None:
                sums.write_sealed(folder / "environment.json", environment)
            fame = [f"hall_of_fame/{path.name}" for path in folder.glob("hall_of_fame/*.npz")]
            enter_sums(folder, [*RESULT_FILES, *fame, "result.json"])
            sums.write_sealed(folder / "config.json", {**config, "schema": SCHEMA})
    except Timeout as error:
        raise InUseError(f"{folder} is in use by another process; wait for it.") from error
    return True


def enter_sums(folder: Path, names: list[str]) -> None:
    """Enters the checksums of those files that are there."""
    contents = {name: read_bytes(folder / name) for name in names if (folder / name).exists()}
    with sums.replacing(folder, contents):
        pass


def _migrate_evaluations(path: Path) -> None:
    drop_torn_line(path)
    if not path.exists() or not (rows := records.read_rows(path)) or sums.CHECK in rows[0]:
        return
    chain, columns = sums.Chain(), list(rows[0])
    checked = [{**row, sums.CHECK: chain.next(list(row.values()))} for row in rows]
    write_atomically(path, records.csv_text([*columns, sums.CHECK], checked).encode())


def _migrate_checkpoints(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    for path in sorted(folder.glob("**/*.json")):
        with contextlib.suppress(*DAMAGE):  # a damaged one is made again when the run is resumed
            name = str(path.relative_to(folder).with_suffix(""))
            facts = json.loads(read_bytes(path))
            checkpoints.write(name, *_read_old(path, facts))
            path.with_suffix(".npz").unlink(missing_ok=True)
    for place in sorted(folder.glob("evidence-*")):
        gen, found = place.name.removeprefix("evidence-"), _read_old_evidence(place)
        if gen.isdecimal() and found:
            checkpoints.save_findings(int(gen), {mask: (evidence, None) for mask, evidence in found.items()})


def _read_old(path: Path, facts: Mapping[str, Any]) -> Content:
    if "npz_sha256" in facts:
        packed = read_bytes(path.with_suffix(".npz"))
        digests = hashlib.sha256(facts["state"].encode()).hexdigest(), hashlib.sha256(packed).hexdigest()
        if digests != (facts["sha256"], facts["npz_sha256"]):
            raise ValueError("its checksum differs")
        return json.loads(facts["state"]), {name: torch.tensor(array) for name, array in unpack_arrays(packed).items()}
    packed = read_bytes(path.with_suffix(".safetensors"))
    return read_checkpoint(path) if parts_of(packed)[1] else (dict(facts), unpack_tensors(packed))


def _read_old_evidence(place: Path) -> dict[str, Evidence]:
    found = {}
    for path in sorted(place.glob("*.npz")):
        with contextlib.suppress(*DAMAGE):
            arrays = unpack_arrays(read_bytes(path))
            found[path.stem] = Evidence(path.stem, arrays["still"], arrays["grow"])
    return found
