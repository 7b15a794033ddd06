"""Evidence on disk, generation by generation."""

from __future__ import annotations

import io
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.masks.evidence import Evidence
from evoprune.system.archive import Archive
from evoprune.system.files import read_bytes, write_atomically

# What reading a damaged file may raise.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def save_evidence(folder: Path, gen: int, found: Iterable[Evidence]) -> None:
    """Writes the evidence of masks that were evaluated in a generation."""
    for evidence in found:
        place = _evidence_folder(folder, gen)
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / f"{evidence.mask}.npz", pack_arrays({"still": evidence.still, "grow": evidence.grow}))


def load_evidence(folder: Path, gen: int) -> dict[str, Evidence]:
    """Reads the evidence of a generation by mask hash; a damaged file counts as missing, and its mask is evaluated again."""
    found = {}
    for path in sorted(_evidence_folder(folder, gen).glob("*.npz")):
        try:
            arrays = unpack_arrays(read_bytes(path))
            found[path.stem] = Evidence(path.stem, arrays["still"], arrays["grow"])
        except DAMAGE:
            continue
    return found


def drop_after(folder: Path, gen: int) -> None:
    """Removes the checkpoints and evidence of what came after a generation, and the trainings of generations' fittest masks."""
    for path in [*folder.glob("generation-*"), *folder.glob("evidence-*"), *folder.glob("bests-*")]:
        number = path.name.removesuffix(".damaged").removesuffix(path.suffix).partition("-")[2]
        if path.name.startswith("bests-") or not number.isdecimal() or int(number) > gen:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def drop_evidence(folder: Path, before: int) -> None:
    """Removes the evidence of the generations before one."""
    for place in folder.glob("evidence-*"):
        gen = place.name.removeprefix("evidence-")
        if gen.isdecimal() and int(gen) < before:
            shutil.rmtree(place)


def _evidence_folder(folder: Path, gen: int) -> Path:
    return folder / f"evidence-{gen:06d}"


def pack_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Returns the content of an ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack_arrays(packed: bytes) -> dict[str, Any]:
    """Returns the arrays of the content of an ``.npz`` file; raises :data:`DAMAGE`."""
    archive = Archive(io.BytesIO(packed))
    if sum(archive.sizes.values()) > len(packed):
        raise ValueError("its arrays have more bytes than the file")
    return {name: archive.read(name, size) for name, size in archive.sizes.items()}
