"""The state of an evolution between two generations, as JSON values and tensors of a journal."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from deap import tools
from torch import Tensor

from evoprune.evaluation.terms import FAILED
from evoprune.masks.mask import Mask
from evoprune.runs.checkpoints import Content, evidence_of, evidence_tensors, pack_snapshot, unpack_snapshot
from evoprune.runs.journal import Journal
from evoprune.search.evolution.state import State

Shapes = Mapping[str, tuple[int, ...]]


def save_state(journal: Journal, state: State) -> None:
    """Records a state in a journal."""
    journal.save_state(state.gen, *pack(state))


def load_state(journal: Journal, shapes: Shapes, hall_of_fame: Callable[[], tools.HallOfFame]) -> State | None:
    """Returns the last state in a journal that is not damaged.

    Args:
        journal: The journal.
        shapes: Shape of the prunable weights by name.
        hall_of_fame: Makes an empty hall of fame.

    Returns:
        The state; None if there is none.
    """
    return journal.load_state(lambda facts, tensors: unpack(facts, tensors, shapes, hall_of_fame()))


def pack(state: State) -> Content:
    """Returns a state as JSON values and tensors."""
    pending = [mask for chunk in state.pending for mask in chunk]
    kept = (*state.population, *state.hall_of_fame, *(mask for _, mask in state.bests), *pending)
    names = {id(mask): _name(mask) for mask in kept}  # a mask may be in several of them
    distinct = {names[id(mask)]: mask for mask in kept}
    place = {name: i for i, name in enumerate(distinct)}
    number = {key: place[name] for key, name in names.items()}
    tensors = {"bits": torch.from_numpy(np.array([np.packbits(mask.bits) for mask in distinct.values()]))}
    for i, mask in enumerate(state.population):
        if mask.evidence is not None:
            tensors |= evidence_tensors(str(i), mask.evidence)
    snapshots: dict[str, Any] = {}
    for i, mask in enumerate(distinct.values()):
        if mask.snapshot is not None:
            snapshots[str(i)], its = pack_snapshot(str(i), mask.snapshot)
            tensors |= its
    facts = {
        "gen": state.gen,
        "masks": [mask.hash for mask in distinct.values()],
        "parents": [mask.parent for mask in distinct.values()],
        "snapshots": snapshots,
        "fitness": [list(mask.fitness.values) for mask in distinct.values()],
        "population": [number[id(mask)] for mask in state.population],
        "hall_of_fame": [number[id(mask)] for mask in state.hall_of_fame],
        "bests": [[gen, number[id(mask)]] for gen, mask in state.bests],
        "pending": [[number[id(mask)] for mask in chunk] for chunk in state.pending],
        "logbook": _plain({"records": state.logbook, "chapters": state.logbook.chapters, "header": state.logbook.header}),
        "variation": state.variation.bit_generator.state,
        "selection": state.selection.getstate(),
        "exhausted": state.exhausted,
        "lineage": state.lineage,
        "improved": state.improved,
        "seconds": state.seconds,
    }
    return facts, tensors


def unpack(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shapes: Shapes, hall_of_fame: tools.HallOfFame) -> State:
    """Returns the state that :func:`pack` has packed.

    Args:
        facts: The JSON values.
        tensors: The tensors.
        shapes: Shape of the prunable weights by name.
        hall_of_fame: An empty hall of fame.

    Raises:
        ValueError: A mask is not of this network.
    """

    def mask_of(i: int) -> Mask:
        mask = Mask.from_packed(tensors["bits"][i].numpy(), shapes)
        if mask.hash != facts["masks"][i]:
            raise ValueError("a mask has another hash")
        if facts["fitness"][i]:
            mask.fitness.values = [FAILED if value is None else value for value in facts["fitness"][i]]
        mask.parent = facts["parents"][i] if "parents" in facts else ""
        if str(i) in facts.get("snapshots", {}):
            mask.snapshot = unpack_snapshot(str(i), facts["snapshots"][str(i)], tensors)
        return mask

    population = [mask_of(i) for i in facts["population"]]
    for i, mask in enumerate(population):
        if f"still/{i}" in tensors:
            mask.evidence = evidence_of(str(i), mask.hash, tensors)
    hall_of_fame.items = [mask_of(i) for i in facts["hall_of_fame"]]
    hall_of_fame.keys = [mask.fitness for mask in reversed(hall_of_fame.items)]
    variation = np.random.default_rng()
    variation.bit_generator.state = facts["variation"]
    selection = random.Random()
    version, internal, gauss = facts["selection"]
    selection.setstate((version, tuple(internal), gauss))
    return State(
        population=population,
        hall_of_fame=hall_of_fame,
        variation=variation,
        selection=selection,
        gen=facts["gen"],
        logbook=_logbook(_numbers(facts["logbook"])),
        bests=[(gen, mask_of(i)) for gen, i in facts["bests"]],
        improved=facts["improved"],
        seconds=facts["seconds"],
        pending=[[mask_of(i) for i in chunk] for chunk in facts["pending"]],
        exhausted=facts["exhausted"],
        lineage=facts.get("lineage", {}),
    )


def _name(mask: Mask) -> tuple[str, str]:
    return mask.key, "" if mask.snapshot is None else mask.snapshot.digest


def _logbook(content: Mapping[str, Any]) -> tools.Logbook:
    logbook = tools.Logbook()
    logbook.header = content["header"]
    logbook.extend(content["records"])
    for name, rows in content["chapters"].items():
        logbook.chapters[name].extend(rows)
    logbook.buffindex = len(logbook)  # was shown before
    return logbook


def _plain(content: Any) -> Any:
    """Returns JSON values; numbers that are not finite become None."""
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
