"""Full trainings of the fittest masks of single generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from evoprune.evaluation.chunks import split
from evoprune.masks.mask import Mask
from evoprune.runs.result import MEASURED
from evoprune.search.evolution.state import State
from evoprune.search.session import Session
from evoprune.training.final import FinalTraining, Training, train_together
from evoprune.training.history import metric_columns


def train_bests(session: Session, state: State, count: int, known: Mapping[str, FinalTraining]) -> list[dict[str, Any]]:
    """Trains the fittest masks of some generations fully from W0, together, to compare their accuracy with their fitness.

    Args:
        session: The session; the test set is not used, and the batches are those of the brief training.
        state: The state, with the fittest mask of each generation in which it changed.
        count: How many to train, evenly spread over these.
        known: Trainings that were done already, by mask hash.

    Returns:
        Rows with the columns :data:`evoprune.runs.result.BEST_COLUMNS`, and those of metrics.
    """
    problem, brief = session.problem, session.evaluator.brief
    shown = np.unique(np.linspace(0, len(state.bests) - 1, min(count, len(state.bests))).round().astype(int))
    chosen = {state.bests[i][1].hash: state.bests[i] for i in shown}
    measured = {mask_hash: measured_of(training) for mask_hash, training in known.items()}
    untrained = [mask for mask_hash, (_, mask) in chosen.items() if mask_hash not in known]
    groups = list(split(untrained, session.evaluator.job.chunk))
    epochs = problem.recipe.epochs
    with session.bar(epochs * len(groups), "bests", unit="epoch") as bar:
        how = Training(brief.engine, brief.seed, brief.threads, bar.update, epochs=epochs)
        for i, group in enumerate(groups):

            def train_group(group: Sequence[Mask] = group) -> tuple[dict[str, Any], dict[str, Tensor]]:
                done = train_together(problem, group, how)
                return {mask.hash: measured_of(training) for mask, training in zip(group, done, strict=True)}, {}

            measured |= session.journal.step(f"bests-{i}", train_group)[0]
            bar.update((i + 1) * epochs - bar.n)
    return [
        {"gen": gen, "mask": mask.hash, "fitness": mask.fitness.values[0], **measured[mask.hash]}
        for gen, mask in chosen.values()
    ]


def measured_of(training: FinalTraining) -> dict[str, float | None]:
    """Returns the columns of ``bests.csv`` of a full training, as JSON values."""
    last = training.history[-1]
    return {name: last[name] for name in (*MEASURED, *metric_columns(last))}
