"""The result of a method, its description in ``result.json``, and its files."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from deap import tools
from torch import nn

from evoprune.evaluation.brief import collapse_note
from evoprune.evaluation.evaluation import FAILURE, MACHINE_FAILURE, Evaluation
from evoprune.masks.mask import Mask, fitness_of
from evoprune.problem.metrics import column
from evoprune.problem.problem import Problem
from evoprune.runs import records, sums
from evoprune.runs.ranks import spearman
from evoprune.runs.tensors import save_tensors
from evoprune.system.files import read_bytes, write_atomically
from evoprune.training.cost import multiply_adds
from evoprune.training.final import FinalTraining
from evoprune.training.history import HISTORY_COLUMNS, metric_columns

MEASURED = ("validation_accuracy", "validation_loss")
STOPPING = ("best_epoch", "stopped_epoch")
BEST_COLUMNS = ("gen", "mask", "fitness", *MEASURED)
# The files of a finished run beside its hall of fame and result.json.
RESULT_FILES = (
    "evaluations.csv", "generations.csv", "layers.csv", "lineage.csv", "bests.csv", "history.csv", "confusion.csv",
    "removals.json", "mask.npz", "model.safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The result of a method: the mask that it found, trained, with its records.

    Attributes:
        mask: The winner.
        model: The winner's network after the full training, removed weights exactly zero.
        trainings: The full training of the winner (``winner``) and of the controls, by role.
        summary: The content of ``result.json``.
        logbook: DEAP's logbook: fitness over generations; empty for a method without a population.
        population: The last generation, fitness and all.
        evaluations: Its evaluations, in the same order.
        hall_of_fame: The fittest masks of all generations; of several objectives the Pareto front.
        bests: The fittest masks as of single generations, trained fully: the rows of ``bests.csv``.
        identity: Digests of the problem's ``weights`` (W0) and ``data``.
    """

    mask: Mask
    model: nn.Module
    trainings: dict[str, FinalTraining]
    summary: dict[str, Any]
    logbook: tools.Logbook = field(default_factory=tools.Logbook)
    population: list[Mask] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    hall_of_fame: list[Mask] = field(default_factory=list)
    bests: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)


def trained_model(problem: Problem, training: FinalTraining) -> nn.Module:
    """Returns the problem's network with the trained weights, in evaluation mode."""
    model = problem.network().eval()
    model.load_state_dict(training.state)
    return model


def identity_of(problem: Problem) -> dict[str, str]:
    """Returns the parts of a problem's identity that need no identification of the user's code, which may fail."""
    return {"weights": problem.weights_digest, "data": problem.data_digest}


def describe_problem(problem: Problem, seed: int) -> dict[str, Any]:
    """Returns the description of a problem in a result."""
    config, data = problem.config(), problem.data
    return {
        "data": config["data"],
        "model": config["model"],
        "seed": seed,
        "input_shape": list(data.train[0].shape[1:]),
        "dense_multiply_adds": multiply_adds(problem, Mask(np.ones(problem.prunable_count, bool), problem.shapes)),
        # absent if they say nothing
        **({"classes": list(data.classes)} if data.classes is not None else {}),
        **({"data_digest": data.digest} if data.digest is not None else {}),
        **({"unprunable": {n: list(shape) for n, shape in problem.unprunable.items()}} if problem.unprunable else {}),
    }


def describe_training(problem: Problem, start: Mask, training: FinalTraining) -> dict[str, Any]:
    """Returns the description of a fully trained mask in a result.

    Args:
        problem: The problem.
        start: The mask that training began with; the training's own mask lacks the weights that dissipated since.
        training: The training.
    """
    chance, mask = problem.chance_loss, training.mask
    return {
        "mask": mask.hash,
        "start": start.hash,
        **({"key": start.key} if start.key != start.hash else {}),
        "sparsity": mask.sparsity,
        "network_sparsity": (len(mask) - mask.survivors) / problem.parameter_count,
        "survivors": mask.survivors,
        "collapse": collapse_note(problem, mask),
        "layers": {name: [int(layer.sum()), layer.size] for name, layer in mask.layers.items()},
        "test_accuracy": training.test_accuracy,
        "test_loss": training.test_loss,
        "validation_accuracy": training.validation_accuracy,
        "validation_loss": training.validation_loss,
        "better_than_chance": None if chance is None else training.validation_loss < chance,
        # absent if they say nothing
        **{column(name, "test"): value for name, value in training.test_metrics.items()},
        **{name: training.row[name] for name in metric_columns(training.row)},
        **({} if training.best_epoch is None else {name: getattr(training, name) for name in STOPPING}),
    }


def count_failures(evaluations: Iterable[Evaluation]) -> dict[str, int]:
    """Returns how many masks failed, and how many failed because of the machine; warns of these, for they were not judged."""
    status = Counter(evaluation.status for evaluation in evaluations)
    if count := status[MACHINE_FAILURE]:
        warnings.warn(
            f"{count} masks were not judged, because the machine failed (see the notes in evaluations.csv); they counted as "
            f"least fit. retry_failed=True (--retry-failed) evaluates them again.",
            stacklevel=2,
        )
    return {"failed": status[FAILURE], "machine_failures": count}


def rank_correlation(population: Sequence[Mask], evaluations: Sequence[Evaluation]) -> float:
    """Returns Spearman's rho between fitness and validation accuracy (minus the loss, if there is no accuracy).

    Over the evaluations that did not fail; NaN for fewer than three, or if either is constant.
    """
    pairs = [
        (fitness_of(mask), -e.validation_loss if math.isnan(e.validation_accuracy) else e.validation_accuracy)
        for mask, e in zip(population, evaluations, strict=True)
        if not e.has_failed
    ]
    values = np.array(pairs).T
    if len(pairs) < 3 or np.ptp(values, axis=1).min() == 0:
        return math.nan
    return spearman(*values)


def write_result(folder: Path, result: Result) -> None:
    """Writes a result into a run folder with checksums; ``result.json`` last, which says that the run is finished."""
    rows = [{"role": role, **row} for role, training in result.trainings.items() for row in training.history]
    metrics = metric_columns(result.trainings["winner"].history[-1])
    records.write_table(folder / "history.csv", ["role", *HISTORY_COLUMNS, *metrics], rows)
    if counts := result.trainings["winner"].confusion:
        classes = [str(i) for i in range(len(counts))]
        pairs = [{"class": i, **dict(zip(classes, row, strict=True))} for i, row in enumerate(counts)]
        records.write_table(folder / "confusion.csv", ["class", *classes], pairs)
    removals = {role: training.removals for role, training in result.trainings.items() if training.removals}
    if removals:
        records.write_json(folder / "removals.json", removals)
    if result.bests:
        records.write_table(folder / "bests.csv", [*BEST_COLUMNS, *metrics], result.bests)
    for i, mask in enumerate(result.hall_of_fame):
        (folder / "hall_of_fame").mkdir(exist_ok=True)
        mask.save(folder / "hall_of_fame" / f"{i:03d}.npz")
    result.mask.save(folder / "mask.npz")
    save_tensors(folder / "model.safetensors", result.model.state_dict())
    written = [folder / name for name in RESULT_FILES if (folder / name).exists()]
    contents = {str(path.relative_to(folder)): read_bytes(path) for path in [*written, *folder.glob("hall_of_fame/*.npz")]}
    contents["result.json"] = records.json_bytes(result.summary)
    with sums.replacing(folder, contents):
        write_atomically(folder / "result.json", contents["result.json"])
