"""Loss and accuracy of a population."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.engines.population import Population
from evoprune.problem.examples import measure_batch
from evoprune.problem.losses import weight_of
from evoprune.problem.metrics import measure_metrics
from evoprune.problem.problem import Problem
from evoprune.seeds import noise

# With more classes their pairs are not counted.
MOST_CLASSES = 256


@dataclass(frozen=True)
class Measured:
    """Mean loss [K], accuracy [K] from 0 to 1 (NaN if the targets are not classes), and the problem's metrics [K] by name.

    Accuracy and metrics are NaN where the loss is not finite. On the test set ``confusion`` [K, classes, classes] counts the
    examples of each class (rows) with each prediction (columns); None elsewhere, without a class an example, or with too many.
    """

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    metrics: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None


def measure(population: Population, problem: Problem, part: str) -> Measured:
    """Measures mean loss, accuracy and metrics on ``train``, ``validation`` or ``test``, in evaluation mode.

    A network that draws in evaluation mode draws the same each time. All outputs are kept in memory only for metrics.
    """
    x, target = problem.part(part)
    losses = torch.zeros(population.size, dtype=torch.float64, device=x.device)
    correct = torch.zeros_like(losses)
    confusion: Tensor | int = 0
    kept: list[Tensor] = []
    total: Tensor | int = 0
    population.train(False)
    with torch.no_grad(), noise(0, 0, problem.device):
        batch = measure_batch(x)
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            inputs = x[rows]
            wanted = inputs if target is x else target[rows]  # the same, also where reading draws
            outputs, weight = population(inputs), weight_of(problem.loss_function, wanted)
            losses += problem.losses(outputs, wanted).double() * weight
            total = total + weight
            if problem.is_classification:
                correct += _count_correct(outputs, wanted)
            if problem.is_classification and part == "test" and wanted.dim() == 1 and outputs.shape[2] <= MOST_CLASSES:
                confusion = confusion + _count_pairs(outputs, wanted)
            kept += [outputs] if problem.metrics else []
        metrics = {}
        if kept:
            finite = losses.isfinite().cpu().numpy()
            metrics = measure_metrics(problem.metrics, torch.cat(kept, dim=1), target[:], finite)
    if not problem.is_classification:
        correct.fill_(torch.nan)
    correct.masked_fill_(~losses.isfinite(), torch.nan)  # the largest of several NaN is no prediction
    counted = confusion.cpu().numpy() if isinstance(confusion, Tensor) else None
    return Measured((losses / total).cpu().numpy(), (correct / target.numel()).cpu().numpy(), metrics, counted)


def _count_correct(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs.argmax(dim=2) == target).flatten(1).sum(dim=1)


def _count_pairs(outputs: Tensor, target: Tensor) -> Tensor:
    """Returns the number of examples of each class (rows) with each prediction (columns) [K, classes, classes]."""
    classes = outputs.shape[2]
    predicted, labels = outputs.argmax(dim=2).flatten(1), target.flatten()
    known = (labels >= 0) & (labels < classes)  # an index that the loss ignores is no class
    places = labels[known] * classes + predicted[:, known]
    return torch.stack([torch.bincount(each, minlength=classes**2).view(classes, classes) for each in places])
