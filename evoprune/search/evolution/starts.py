"""The first generation of an evolution: random masks, and masks that other methods found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune.baselines.random_masks import dense
from evoprune.baselines.registry import BASELINES
from evoprune.errors import InputError, RunError, look_up
from evoprune.masks.mask import Mask, distinct
from evoprune.masks.random import random_mask, survivors_of
from evoprune.problem.problem import Problem
from evoprune.search.evolution.options import RANDOM, Evolution
from evoprune.search.report import Spent
from evoprune.search.session import Session
from evoprune.system.files import require_own
from evoprune.training.cost import multiply_adds
from evoprune.training.final import Training, train_fully
from evoprune.training.registry import SCHEDULES
from evoprune.training.schedule import initial_mask


@dataclass(frozen=True)
class Starts:
    """The first masks.

    Attributes:
        masks: The masks, distinct ones.
        spent: The cost of finding them; the cost of given masks is not known.
    """

    masks: list[Mask]
    spent: Spent


def starting_baselines() -> tuple[str, ...]:
    """Returns the baselines whose masks have the requested sparsity."""
    return tuple(name for name in BASELINES if name not in (RANDOM, "dense"))


def starting_schedules() -> tuple[str, ...]:
    """Returns the schedules of masks that train a network for a first mask."""
    return tuple(name for name in SCHEDULES if name not in BASELINES)


def own_starts(evolution: Evolution) -> dict[str, object]:
    """Returns the user's own baselines and schedules among the starts, by kind and name."""
    baselines = {f"baseline {name}": BASELINES[name].prune for name in evolution.names if name in BASELINES.own}
    schedules = [name for name in evolution.names if name in SCHEDULES.own and name not in BASELINES]
    return {**baselines, **{f"schedule {name}": SCHEDULES[name] for name in schedules}}


def given_masks(problem: Problem, evolution: Evolution, sparsity: float) -> list[Mask]:
    """Returns the masks in ``start``, and those at its paths; a run folder gives its mask and its hall of fame.

    Raises:
        InputError: A name that is neither known nor a path, or a mask that does not fit.
    """
    low, high = evolution.bounds(sparsity)
    least, most = (survivors_of(s, problem.prunable_count) for s in (high, low))
    for mask in evolution.masks:
        mask.require(problem.shapes)
    masks = [_require_survivors(mask, "a mask of start", sparsity, least, most) for mask in evolution.masks]
    for name in evolution.names:
        if name in (RANDOM, *starting_schedules(), *starting_baselines()):
            continue
        path = evolution.place(name)
        if not path.exists():
            known = (RANDOM, *starting_schedules(), *starting_baselines(), "the path of a mask or a run folder")
            look_up("start", name, dict.fromkeys(known, True))
        if path.is_dir():
            require_own(path)
        for file in [path / "mask.npz", *sorted(path.glob("hall_of_fame/*.npz"))] if path.is_dir() else [path]:
            masks.append(_require_survivors(Mask.load(file, problem), str(file), sparsity, least, most))
    return distinct(Mask(mask.bits, mask.shapes) for mask in masks)


def _require_survivors(mask: Mask, what: str, sparsity: float, least: int, most: int) -> Mask:
    if least <= mask.survivors <= most:
        return mask
    expected = least if least == most else f"{least} to {most}"
    raise InputError(
        f"{what} keeps {mask.survivors} weights; expected {expected} for sparsity {sparsity}. Pass sparsity={mask.sparsity!r} "
        f"to search with as many, or train the mask as it is by ep.train_mask(problem, mask) or experiments/train.py."
    )


def first_masks(session: Session, evolution: Evolution, given: Sequence[Mask], sparsity: float, layer_densities: str) -> Starts:
    """Returns the masks of the first generation: those that ``start`` names, and random ones if ``random`` is among the names.

    Args:
        session: The session; its journal keeps the masks that were found.
        evolution: The options.
        given: Masks that were read from files.
        sparsity: Sparsity of the others.
        layer_densities: Layer densities of random masks; see :func:`evoprune.masks.random.layer_survivors`.
    """
    problem = session.problem

    def find() -> tuple[dict[str, Any], dict[str, Tensor]]:
        began, found, spent = time.perf_counter(), list(given), Spent()
        for name in evolution.names:
            if name in (*starting_schedules(), *starting_baselines()):
                session.say(f"first masks: {name}")
                mask, its = (_prune if name in BASELINES else _train)(session, name, sparsity)
                found.append(mask)
                spent = Spent(spent.search_epochs + its.search_epochs, spent.cost + its.cost)
        bits = np.array([mask.bits for mask in found], bool).reshape(len(found), problem.prunable_count)
        facts = {**asdict(spent), "seconds": time.perf_counter() - began}
        return facts, {"bits": torch.from_numpy(np.packbits(bits, axis=1))}

    facts, tensors = session.journal.step("starts", find)
    rows = np.unpackbits(tensors["bits"].numpy(), axis=1, count=problem.prunable_count).astype(bool)
    masks = {mask.hash: mask for mask in (Mask(bits, problem.shapes) for bits in rows)}
    if RANDOM in evolution.names:
        stream = session.generator("masks")
        with session.bar(evolution.first, "first masks", unit="mask", leave=False, delay=2) as bar:
            for _ in range(100 * evolution.first):  # a small network may have too few different masks
                if len(masks) >= evolution.first:
                    break
                drawn = random_mask(problem.shapes, sparsity, stream, layer_densities)
                masks.setdefault(drawn.hash, drawn)
                bar.update(len(masks) - bar.n)
    return Starts(list(masks.values()), Spent(**facts))


def _prune(session: Session, name: str, sparsity: float) -> tuple[Mask, Spent]:
    baseline, problem, epochs = BASELINES[name], session.problem, session.problem.recipe.epochs
    mask = baseline.prune(problem, sparsity=sparsity, seed=session.seed)
    dense_epoch = multiply_adds(problem, dense(problem))
    return mask, Spent(baseline.search_epochs(problem, epochs), dense_epoch * baseline.search_cost(problem, sparsity, epochs))


def _train(session: Session, name: str, sparsity: float) -> tuple[Mask, Spent]:
    """Returns the mask that a schedule leaves, and the cost of training until its last change."""
    problem, make = session.problem, SCHEDULES[name]
    schedule = make(problem, sparsity)
    epochs = getattr(schedule, "last", problem.recipe.epochs)
    free_after = 0 if session.execution.engine == "auto" else None
    how = Training(
        session.execution.engine, session.order, session.threads, None, lambda: make(problem, sparsity), epochs, free_after
    )
    training = train_fully(problem, initial_mask(schedule, problem, session.seed), how)
    if divergence := training.divergence(tested=False):
        raise RunError(f"training {name!r} for the first masks diverged ({divergence}); lower lr, or leave it out of start.")
    return training.mask, Spent(epochs, training.cost(epochs))
