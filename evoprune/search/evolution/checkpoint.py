"""Checkpoints of an evolution: its state between two generations, and the evidence of the one under way.

Arrays are ``.npz`` without pickle, the rest JSON. The JSON file is written last and has the checksums of both, so a checkpoint
is whole or not there; the last two are kept, and a damaged one is passed over.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from deap import tools

from evoprune.evaluation.terms import FAILED
from evoprune.masks.evidence import Evidence
from evoprune.masks.mask import Mask
from evoprune.runs import records
from evoprune.runs.evidence import DAMAGE, pack_arrays, unpack_arrays
from evoprune.search.evolution.state import State
from evoprune.system.files import read_bytes, write_atomically

KEPT = 2
Shapes = Mapping[str, tuple[int, ...]]


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
    packed = pack_arrays(arrays)
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
        except (_DamagedError, *DAMAGE) as error:
            warnings.warn(f"the checkpoint {path} is damaged ({error}); the one before is used.", stacklevel=2)
            for file in (path, path.with_suffix(".npz")):
                if file.exists():
                    file.replace(file.with_name(f"{file.name}.damaged"))
    return None


def _load(path: Path, shapes: Shapes, hall_of_fame: tools.HallOfFame) -> State:
    outer, packed = json.loads(read_bytes(path)), read_bytes(path.with_suffix(".npz"))
    found = hashlib.sha256(outer["state"].encode()).hexdigest(), hashlib.sha256(packed).hexdigest()
    if found != (outer["sha256"], outer["npz_sha256"]):
        raise _DamagedError("its checksum is another")
    content, arrays = json.loads(outer["state"]), unpack_arrays(packed)
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
