"""Snapshots of a population in the middle of its training, and training that continues from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune.engines.memory import make_optimizer, read_memory
from evoprune.engines.population import Engine, Population
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.snapshot import Snapshot
from evoprune.problem.problem import Problem

_BITS, _STATE, _SHARED, _MEMORY, _WHOLE = "bits", "state/", "shared/", "memory/", "whole/"
History = Sequence[Mapping[str, Any]]


def take_snapshots(
    population: Population, optimizer: torch.optim.Optimizer, epochs: int, histories: Sequence[History]
) -> list[Snapshot]:
    """Returns a snapshot of each individual: of prunable weights and their memory only what survives.

    Args:
        population: The population.
        optimizer: The optimiser that trains it.
        epochs: Epochs of the recipe that it was trained for.
        histories: The rows of each individual's epochs.
    """
    memory = read_memory(population, optimizer)
    shared = {f"{_SHARED}{key}": _on_cpu(torch.as_tensor(v)) for key, v in memory.items() if not isinstance(v, list | None)}
    taken = []
    for k, mask in enumerate(population.masks):
        layers = {name: torch.from_numpy(bits) for name, bits in mask.layers.items()}
        tensors = {_BITS: torch.from_numpy(np.packbits(mask.bits)), **shared}
        tensors |= {f"{_STATE}{name}": _pack(value, layers.get(name)) for name, value in population.state(k).items()}
        for key, individuals in memory.items():
            if isinstance(individuals, list):
                for name, value in individuals[k].items():
                    layer = layers.get(name)
                    if layer is not None and layer.shape != value.shape:  # such as Adafactor's
                        tensors[f"{_WHOLE}{key}/{name}"] = _pack(value, None)
                    else:
                        tensors[f"{_MEMORY}{key}/{name}"] = _pack(value, layer)
        taken.append(Snapshot(mask.hash, epochs, tensors, histories[k]))
    return taken


@dataclass(frozen=True)
class Begun:
    """A population whose training has begun.

    Attributes:
        population: The population.
        epochs: Epochs of the recipe that it was trained for.
        optimizer: Its optimiser, with the memory of them; None for a new one.
    """

    population: Population
    epochs: int = 0
    optimizer: torch.optim.Optimizer | None = None


def begin(engine: Engine, problem: Problem, masks: Sequence[Mask], snapshots: Sequence[Snapshot] = ()) -> Begun:
    """Returns the population of some masks, at W0 or as it was when snapshots were taken.

    Args:
        engine: The engine.
        problem: The problem.
        masks: The masks.
        snapshots: The snapshot from which each continues, all after as many epochs; none for W0.

    Raises:
        InputError: A snapshot is of another network, or there is not one for each mask, after as many epochs.
    """
    population = engine.build(problem, masks)
    if not snapshots:
        return Begun(population)
    if len(snapshots) != len(masks) or len({snapshot.epochs for snapshot in snapshots}) > 1:
        after = sorted({snapshot.epochs for snapshot in snapshots})
        raise InputError(
            f"{len(snapshots)} snapshots, after {after} epochs, are given for {len(masks)} masks; expected one for each, all "
            f"after as many epochs."
        )
    return Begun(population, snapshots[0].epochs, restore(population, problem, snapshots))


def restore(population: Population, problem: Problem, snapshots: Sequence[Snapshot]) -> torch.optim.Optimizer:
    """Lets a population continue from snapshots, one an individual, and returns its optimiser.

    A survivor that the snapshot's mask had keeps its weight and its memory; any other begins at zero, without memory.

    Args:
        population: The population, with its masks.
        problem: The problem.
        snapshots: The snapshots.

    Raises:
        InputError: A snapshot is of another network.
    """
    restored = [_unpack(snapshot, mask, problem) for snapshot, mask in zip(snapshots, population.masks, strict=True)]
    population.load([state for state, _ in restored])
    population.mask_weights()  # a tied weight has a second name
    memory: dict[str, Any] = {key: [of[key] for _, of in restored] for key in restored[0][1]}
    first = snapshots[0].tensors
    shared = {name.removeprefix(_SHARED): tensor for name, tensor in first.items() if name.startswith(_SHARED)}
    memory |= {key: value.clone().to(_place(key, problem)) for key, value in shared.items()}
    return make_optimizer(population, problem, memory)


def _unpack(snapshot: Snapshot, mask: Mask, problem: Problem) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Returns a snapshot's dense state and memory under a mask."""
    then = Mask.from_packed(snapshot.tensors[_BITS].numpy(), problem.shapes)
    if then.hash != snapshot.mask:
        raise InputError("a snapshot is of another network; expected one of the mask that it was taken with.")
    before, now = then.layers, mask.layers

    def dense(name: str, value: Tensor) -> Tensor:
        if name not in before:
            return value.clone().to(problem.device)
        full = torch.zeros(before[name].shape, dtype=value.dtype)
        full[torch.from_numpy(before[name])] = value
        full[torch.from_numpy(~now[name])] = 0
        return full.to(problem.device)

    state: dict[str, Tensor] = {}
    memory: dict[str, dict[str, Tensor]] = {}
    for place, value in snapshot.tensors.items():
        if place.startswith(_STATE):
            name = place.removeprefix(_STATE)
            state[name] = dense(name, value)
        elif place.startswith(_MEMORY):
            key, _, name = place.removeprefix(_MEMORY).partition("/")
            memory.setdefault(key, {})[name] = dense(name, value)
        elif place.startswith(_WHOLE):
            key, _, name = place.removeprefix(_WHOLE).partition("/")
            memory.setdefault(key, {})[name] = value.clone().to(problem.device)
    return state, memory


def _place(key: str, problem: Problem) -> str:
    """Returns the device of a number that all parameters share, as ``torch.optim.Optimizer.load_state_dict`` places it."""
    options = problem.recipe.options
    return "cpu" if key == "step" and not (options.get("capturable") or options.get("fused")) else problem.device


def _pack(value: Tensor, layer: Tensor | None) -> Tensor:
    value = _on_cpu(value)
    return value.clone() if layer is None else value[layer]


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().cpu()
