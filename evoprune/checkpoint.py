"""Checkpoints of an evolution: its state between two generations, and the evidence of the one under way.

Arrays are ``.npz`` without pickle, the rest JSON. The JSON file is written last and has the checksums of both, so a checkpoint
is whole or not there; the last two are kept, and a damaged one is passed over.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from deap import tools

from evoprune import records
from evoprune.archive import Archive
from evoprune.files import read_bytes, write_atomically
from evoprune.fitness import FAILED
from evoprune.mask import Mask
from evoprune.operators import Evidence

KEPT = 2
# What reading a damaged file may raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class State:
    """Where an evolution stands between two generations.

    Attributes:
        population: The masks, with fitness and evidence.
        hall_of_fame: The fittest so far; of several objectives the Pareto front.
        variation: Stream of mutation and crossover.
        selection: Stream of DEAP's selection and variation, which draw from the global ``random``.
        gen: The generation that comes next.
        logbook: A record a generation.
        bests: The fittest mask so far as of each generation in which there was a fitter one, with that generation.
        improved: The last generation with a fitter mask, or, with several objectives, with another Pareto front.
        seconds: Time so far, over interruptions.
        pending: Of a steady-state evolution, the chunks that are being evaluated.
        exhausted: Of a steady-state evolution, whether no new child was found.
    """

    population: list[Mask]
    hall_of_fame: tools.HallOfFame
    variation: np.random.Generator
    selection: random.Random
    gen: int = 0
    logbook: tools.Logbook = field(default_factory=tools.Logbook)
    bests: list[tuple[int, Mask]] = field(default_factory=list)
    improved: int = 0
    seconds: float = 0.0
    pending: list[list[Mask]] = field(default_factory=list)
    exhausted: bool = False


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


def save_state(folder: Path, state: State) -> None:
    """Writes a checkpoint, and removes all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    pending = [mask for chunk in state.pending for mask in chunk]
    kept = (*state.population, *state.hall_of_fame, *(mask for _, mask in state.bests), *pending)
    distinct = {mask.hash: mask for mask in kept}
    number = {mask_hash: i for i, mask_hash in enumerate(distinct)}
    arrays = {"bits": np.array([np.packbits(mask.bits) for mask in distinct.values()])}
    for i, mask in enumerate(state.population):
        if mask.evidence is not None:
            arrays |= {f"still/{i}": mask.evidence.still, f"grow/{i}": mask.evidence.grow}
    content = {
        "gen": state.gen,
        "masks": list(distinct),
        "fitness": [[v if math.isfinite(v) else None for v in mask.fitness.values] for mask in distinct.values()],
        "population": [number[mask.hash] for mask in state.population],
        "hall_of_fame": [number[mask.hash] for mask in state.hall_of_fame],
        "bests": [[gen, number[mask.hash]] for gen, mask in state.bests],
        "pending": [[number[mask.hash] for mask in chunk] for chunk in state.pending],
        "logbook": _plain({"records": state.logbook, "chapters": state.logbook.chapters, "header": state.logbook.header}),
        "variation": state.variation.bit_generator.state,
        "selection": state.selection.getstate(),
        "exhausted": state.exhausted,
        "improved": state.improved,
        "seconds": state.seconds,
    }
    packed = _npz(arrays)
    name = f"generation-{state.gen:06d}"
    write_atomically(folder / f"{name}.npz", packed)
    text = json.dumps(content)
    sums = {"npz_sha256": hashlib.sha256(packed).hexdigest(), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    records.write_json(folder / f"{name}.json", {**sums, "state": text})
    for path in sorted(folder.glob("generation-*.json"))[:-KEPT]:
        path.unlink()
        path.with_suffix(".npz").unlink(missing_ok=True)


def load_state(folder: Path, shapes: Shapes, hall_of_fame: Callable[[], tools.HallOfFame]) -> State | None:
    """Reads the last checkpoint that is whole; a warning names each that is not, and it is set aside.

    Args:
        folder: Folder of the checkpoints.
        shapes: Shape of the prunable weights by name.
        hall_of_fame: Makes an empty hall of fame.

    Returns:
        The state; None where there is none.
    """
    for path in sorted(folder.glob("generation-*.json"), reverse=True):
        try:
            return _load(path, shapes, hall_of_fame())
        except (_DamagedError, *_DAMAGE) as error:
            warnings.warn(f"the checkpoint {path} is damaged ({error}); the one before is used.", stacklevel=2)
            for file in (path, path.with_suffix(".npz")):
                if file.exists():
                    file.replace(file.with_name(f"{file.name}.damaged"))
    return None


def save_evidence(folder: Path, gen: int, found: Iterable[Evidence]) -> None:
    """Writes the evidence of masks that were evaluated in a generation."""
    for evidence in found:
        place = _evidence_folder(folder, gen)
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / f"{evidence.mask}.npz", _npz({"still": evidence.still, "grow": evidence.grow}))


def load_evidence(folder: Path, gen: int) -> dict[str, Evidence]:
    """Reads the evidence of a generation by mask hash; a damaged file counts as missing, and its mask is evaluated again."""
    found = {}
    for path in sorted(_evidence_folder(folder, gen).glob("*.npz")):
        try:
            arrays = _arrays(read_bytes(path))
            found[path.stem] = Evidence(path.stem, arrays["still"], arrays["grow"])
        except _DAMAGE:
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


def _load(path: Path, shapes: Shapes, hall_of_fame: tools.HallOfFame) -> State:
    outer, packed = json.loads(read_bytes(path)), read_bytes(path.with_suffix(".npz"))
    found = hashlib.sha256(outer["state"].encode()).hexdigest(), hashlib.sha256(packed).hexdigest()
    if found != (outer["sha256"], outer["npz_sha256"]):
        raise _DamagedError("its checksum is another")
    content, arrays = json.loads(outer["state"]), _arrays(packed)
    n = sum(math.prod(shape) for shape in shapes.values())

    def mask_of(i: int) -> Mask:
        mask = Mask(np.unpackbits(arrays["bits"][i], count=n).astype(bool), shapes)
        if mask.hash != content["masks"][i]:
            raise _DamagedError("a mask has another hash")
        if content["fitness"][i]:
            mask.fitness.values = [FAILED if value is None else value for value in content["fitness"][i]]
        return mask

    population = [mask_of(i) for i in content["population"]]
    for i, mask in enumerate(population):
        if f"still/{i}" in arrays:
            mask.evidence = Evidence(mask.hash, arrays[f"still/{i}"], arrays[f"grow/{i}"])
    hall_of_fame.items = [mask_of(i) for i in content["hall_of_fame"]]
    hall_of_fame.keys = [mask.fitness for mask in reversed(hall_of_fame.items)]
    records_of, logbook = _numbers(content["logbook"]), tools.Logbook()
    logbook.header = records_of["header"]
    logbook.extend(records_of["records"])
    for name, rows in records_of["chapters"].items():
        logbook.chapters[name].extend(rows)
    logbook.buffindex = len(logbook)  # was shown before
    variation = np.random.default_rng()
    variation.bit_generator.state = content["variation"]
    selection = random.Random()
    version, internal, gauss = content["selection"]
    selection.setstate((version, tuple(internal), gauss))
    bests = [(gen, mask_of(i)) for gen, i in content["bests"]]
    gen, improved, seconds = (content[name] for name in ("gen", "improved", "seconds"))
    pending = [[mask_of(i) for i in chunk] for chunk in content["pending"]]
    exhausted = content["exhausted"]
    return State(population, hall_of_fame, variation, selection, gen, logbook, bests, improved, seconds, pending, exhausted)


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _arrays(packed: bytes) -> dict[str, Any]:
    archive = Archive(io.BytesIO(packed))
    if sum(archive.sizes.values()) > len(packed):
        raise ValueError("its arrays have more bytes than the file")
    return {name: archive.read(name, size) for name, size in archive.sizes.items()}


def _plain(content: Any) -> Any:
    """Returns JSON values; what is not finite becomes None."""
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [_plain(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _numbers(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_numbers(value) for value in content]
    return math.nan if content is None else content
