"""Full trainings of the fittest masks of single generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from evoprune.engines.registry import ENGINES
from evoprune.evaluation.chunks import split
from evoprune.evaluation.job import BriefTraining
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.result import MEASURED
from evoprune.runs.run import Run
from evoprune.search.evolution.state import State
from evoprune.training.final import FinalTraining, Training, train_together


def train_bests(
    problem: Problem,
    brief: BriefTraining,
    state: State,
    count: int,
    known: Mapping[str, FinalTraining],
    run: Run | None,
    progress: bool,
) -> list[dict[str, Any]]:
    """Trains the fittest masks of some generations fully from W0, together, to see what fitness is worth.

    Args:
        problem: The problem; its test set is not used.
        brief: The brief training; the batches are the same.
        state: The state, with the fittest mask of each generation in which it changed.
        count: How many to train, evenly spread over those.
        known: Trainings that were done already, by mask hash.
        run: The run; None records nothing.
        progress: Show a progress bar.

    Returns:
        Rows with the columns :data:`evoprune.runs.result.BEST_COLUMNS`.
    """
    shown = np.unique(np.linspace(0, len(state.bests) - 1, min(count, len(state.bests))).round().astype(int))
    chosen = {state.bests[i][1].hash: state.bests[i] for i in shown}
    measured = {mask_hash: measured_of(training) for mask_hash, training in known.items()}
    untrained = [mask for mask_hash, (_, mask) in chosen.items() if mask_hash not in known]
    groups = list(split(untrained, ENGINES[brief.engine].chunk(brief.chunk_size)))
    epochs = problem.recipe.epochs
    with tqdm(total=epochs * len(groups), desc="bests", unit="epoch", disable=not progress) as bar:
        for i, group in enumerate(groups):

            def train_group(group: Sequence[Mask] = group) -> tuple[dict[str, Any], dict[str, Tensor]]:
                how = Training(brief.engine, brief.seed, brief.threads, lambda: bar.update() and None, epochs=epochs)
                done = train_together(problem, group, how)
                return {mask.hash: measured_of(training) for mask, training in zip(group, done, strict=True)}, {}

            measured |= (train_group() if run is None else run.step(f"bests-{i}", train_group))[0]
            bar.update((i + 1) * epochs - bar.n)
    return [
        {"gen": gen, "mask": mask.hash, "fitness": mask.fitness.values[0], **measured[mask.hash]}
        for gen, mask in chosen.values()
    ]


def measured_of(training: FinalTraining) -> dict[str, float | None]:
    """Returns what ``bests.csv`` says of a full training, as JSON values."""
    return {name: training.history[-1][name] for name in MEASURED}
