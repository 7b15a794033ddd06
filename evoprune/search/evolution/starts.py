"""The first generation of an evolution: random masks, and what other methods found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from deap import base
from torch import Tensor
from tqdm import tqdm

from evoprune.baselines.random_masks import dense
from evoprune.baselines.registry import BASELINES
from evoprune.errors import InputError, RunError, look_up
from evoprune.masks.mask import Mask, distinct
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.runs.run import Run
from evoprune.search.evolution.options import RANDOM, Evolution
from evoprune.system.files import require_own
from evoprune.training.cost import multiply_adds
from evoprune.training.dissipation import Dissipation
from evoprune.training.final import FinalTraining, Training, train_fully

DISSIPATE = "dissipate"
DISSIPATE_EPOCHS = 8
# Baselines whose mask has the asked sparsity.
NAMED = tuple(name for name in BASELINES if name not in (RANDOM, "dense"))


@dataclass(frozen=True)
class Starts:
    """The first masks.

    Attributes:
        masks: The masks, distinct ones.
        search_epochs: Epochs of training that it took to find them; what given masks took is not known.
        cost: The same in multiply-adds.
        seconds: Time that it took.
    """

    masks: list[Mask]
    search_epochs: float
    cost: float
    seconds: float


@dataclass(frozen=True)
class How:
    """How the masks are found.

    Attributes:
        sparsity: The asked sparsity.
        seed: Seed of the run.
        engine: Name of the engine, or ``auto``.
        threads: Threads that torch uses.
        order: Seed of the batches.
    """

    sparsity: float
    seed: int
    engine: str
    threads: int
    order: int


def given_masks(problem: Problem, evolution: Evolution, sparsity: float) -> list[Mask]:
    """Returns the masks that ``start`` has, or names by their paths; of a run folder its mask, and its hall of fame.

    Raises:
        InputError: A name that is neither known nor a path, or a mask that does not fit.
    """
    low, high = evolution.bounds(sparsity)
    least, most = (survivors_of(s, problem.prunable_count) for s in (high, low))
    for mask in evolution.masks:
        mask.require(problem.shapes)
    masks = [_require_survivors(mask, "a mask of start", sparsity, least, most) for mask in evolution.masks]
    for name in evolution.names:
        if name in (RANDOM, DISSIPATE, *NAMED):
            continue
        path = evolution.place(name)
        if not path.exists():
            look_up("start", name, dict.fromkeys((RANDOM, DISSIPATE, *NAMED, "the path of a mask or a run folder"), True))
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


def first_masks(
    problem: Problem,
    evolution: Evolution,
    given: Sequence[Mask],
    how: How,
    toolbox: base.Toolbox,
    run: Run | None,
    progress: bool = False,
) -> Starts:
    """Returns the masks of the first generation: what ``start`` names, and random ones where that is named, too.

    Args:
        problem: The problem.
        evolution: The options.
        given: Masks that were read.
        how: How the others are found.
        toolbox: Its ``individual`` makes random masks.
        run: The run, which keeps what was found; None keeps nothing.
        progress: Say what is looked for.
    """

    def find() -> tuple[dict[str, Any], dict[str, Tensor]]:
        began, found = time.perf_counter(), list(given)
        dense_epoch, search_epochs, cost = multiply_adds(problem, dense(problem)), 0.0, 0.0
        for name in evolution.names:
            if progress and name in (DISSIPATE, *NAMED):
                tqdm.write(f"first masks: {name}")
            if name == DISSIPATE:
                training = _dissipate(problem, how)
                if divergence := training.divergence(tested=False):
                    raise RunError(f"dissipating for the first masks diverged ({divergence}); lower lr, or leave out {name!r}.")
                epochs = len(training.history)
                found.append(training.mask)
                search_epochs, cost = search_epochs + epochs, cost + training.cost(epochs)
            elif name in NAMED:
                baseline, epochs = BASELINES[name], problem.recipe.epochs
                found.append(baseline.prune(problem, sparsity=how.sparsity, seed=how.seed))
                search_epochs += baseline.search_epochs(problem, epochs)
                cost += dense_epoch * baseline.search_cost(problem, how.sparsity, epochs)
        bits = np.array([mask.bits for mask in found], bool).reshape(len(found), problem.prunable_count)
        facts = {"search_epochs": search_epochs, "cost": cost, "seconds": time.perf_counter() - began}
        return facts, {"bits": torch.from_numpy(np.packbits(bits, axis=1))}

    facts, tensors = find() if run is None else run.step("starts", find)
    rows = np.unpackbits(tensors["bits"].numpy(), axis=1, count=problem.prunable_count).astype(bool)
    masks = {mask.hash: mask for mask in (Mask(bits, problem.shapes) for bits in rows)}
    if RANDOM in evolution.names:
        for _ in range(100 * evolution.first):  # a small network may have fewer masks than are wanted
            if len(masks) >= evolution.first:
                break
            drawn = toolbox.individual()
            masks.setdefault(drawn.hash, drawn)
    return Starts(list(masks.values()), **facts)


def _dissipate(problem: Problem, how: How) -> FinalTraining:
    epochs = min(DISSIPATE_EPOCHS, problem.recipe.epochs)
    schedule = Dissipation(epochs, how.sparsity).start
    free_after = 0 if how.engine == "auto" else None
    training = Training(how.engine, how.order, how.threads, schedule=schedule, epochs=epochs, free_after=free_after)
    return train_fully(problem, dense(problem), training)
