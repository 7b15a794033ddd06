"""Metrics: numbers beside loss and accuracy, each measured on a whole part of the data, and recorded."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune.errors import InputError, RunError, look_up
from evoprune.problem.data import Inputs
from evoprune.problem.examples import measure_batch
from evoprune.problem.of_torchmetrics import FAMILY, OfTorchmetrics
from evoprune.problem.recipe import Recipe
from evoprune.registry import Registry
from evoprune.seeds import noise

# Bins of the confidence in ``ece``, as in the source's experiments.
ECE_BINS = 15
LOSS, ACCURACY = "validation_loss", "validation_accuracy"


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        function: A function (outputs [n, ...], targets [n, ...]) -> number, or an object with ``update(outputs, targets)``,
            ``compute()`` and ``reset()``, as those of torchmetrics. Tensors are on the CPU, and are left as they are.
        needs: The targets that it is defined for: ``classes``, ``values`` (numbers of the outputs' shape), or None for any.
        is_error: Smaller is better, even if the function does not say so by its attribute ``higher_is_better``.
    """

    function: Any
    needs: Literal["classes", "values"] | None = None
    is_error: bool = False

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger value is better: not if the function has the attribute ``higher_is_better``, and it is False."""
        higher = getattr(self.function, "higher_is_better", None)  # torchmetrics' word, where it may be None
        return not self.is_error and (higher is None or bool(higher))

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Returns its value; an object that collects is copied first, so that no value depends on an earlier one."""
        if not _collects(self.function):
            return float(self.function(outputs, targets))
        collector = copy.deepcopy(self.function)
        collector.reset()
        collector.update(outputs, targets)
        return float(collector.compute())


def top_5(outputs: Tensor, targets: Tensor) -> Tensor:
    """Top-5 accuracy: the part of the examples whose class is among the five of the largest outputs.

    Source: Russakovsky et al. 2015, arXiv:1409.0575 (one minus its error). Of equal outputs, the class of the
    lower number comes first, as in an argmax.

    Raises:
        InputError: There are at most five classes, so that it would always be 1.
    """
    scores, labels = _by_example(outputs, targets)
    if scores.shape[1] <= 5:
        raise InputError(f"metric 'top-5' is always 1 for {scores.shape[1]} classes; expected at least 6, or take accuracy.")
    of_label = scores.gather(1, labels[:, None])
    is_before = torch.arange(scores.shape[1]) < labels[:, None]
    ahead = (scores > of_label) | ((scores == of_label) & is_before)
    return (ahead.sum(dim=1) < 5).double().mean()


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Balanced accuracy: the mean over the classes, of those in the targets, of TP / (TP + FN).

    Source: Brodersen et al. 2010, doi:10.1109/ICPR.2010.764, for two classes; for more the mean recall, as in scikit-learn.
    """
    counts = _confusion(outputs, targets)
    examples = counts.sum(dim=1)
    return (counts.diag() / examples)[examples > 0].mean()


def f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Macro F1: the mean over the classes, of those in targets or predictions, of 2 TP / (2 TP + FP + FN).

    Source: Opitz and Burst 2019, arXiv:1911.03347 (the averaged F1).
    """
    counts = _confusion(outputs, targets)
    either = counts.sum(dim=0) + counts.sum(dim=1)
    return (2 * counts.diag() / either)[either > 0].mean()


def ece(outputs: Tensor, targets: Tensor) -> Tensor:
    """Expected calibration error: the sum over 15 bins of the confidence of |B| / n |accuracy(B) - mean confidence(B)|.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3. The confidence is the largest softmax of the outputs, and bin m of M is
    ((m - 1) / M, m / M].
    """
    scores, labels = _by_example(outputs, targets)
    confidence, predicted = scores.softmax(dim=1).max(dim=1)
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS)
    gaps = torch.bincount(bins, (predicted == labels).double() - confidence)
    return gaps.abs().sum() / len(labels)


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error: the mean over all elements of |output - target|."""
    return (outputs.double() - targets.double()).abs().mean()


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Coefficient of determination: 1 - sum (target - output)^2 / sum (target - mean target)^2, both over all elements.

    The mean is that of each output over the part's examples (scikit-learn's ``variance_weighted``, if no output's targets are
    constant). It is not finite, and so not recorded, if all of them are constant.
    """
    values = targets.double()
    return 1 - (values - outputs.double()).square().sum() / (values - values.mean(dim=0)).square().sum()


_BUILT_IN = {
    "top-5": Metric(top_5, "classes"),
    "balanced-accuracy": Metric(balanced_accuracy, "classes"),
    "f1": Metric(f1, "classes"),
    "ece": Metric(ece, "classes", is_error=True),
    "mae": Metric(mae, "values", is_error=True),
    "r2": Metric(r2, "values"),
}


def _as_metric(given: Any) -> Metric:
    if isinstance(given, Metric):
        return given
    if isinstance(given, OfTorchmetrics):
        return Metric(given, "classes" if given.takes else None)
    if not (callable(given) or _collects(given)):
        raise InputError(
            f"a metric is {type(given).__name__}; expected a name, a function (outputs, targets) -> number, or an object with "
            f"update, compute and reset."
        )
    return Metric(given)


METRICS: Registry[Metric] = Registry("metric", _BUILT_IN, _as_metric, {FAMILY: lambda name: _as_metric(OfTorchmetrics(name))})


def find_metrics(given: Mapping[str, Any] | Iterable[Any]) -> dict[str, Metric]:
    """Returns metrics by the names that records give them.

    Args:
        given: Names, functions, or objects that collect; or a mapping of names to them.

    Raises:
        InputError: An unknown name, one twice, or one that records use already.
    """
    named = given.items() if isinstance(given, Mapping) else [(METRICS.name_of(each), each) for each in given]
    found: dict[str, Metric] = {}
    for name, thing in named:
        if name in found:
            raise InputError(f"two metrics have the name {name!r}; register one under another name by ep.register.metric.")
        if column(name) in (LOSS, ACCURACY):
            raise InputError(
                f"metric {name!r} has the name of a column of the records, which have loss and accuracy anyway; leave it out, "
                f"or give a metric of yours another name."
            )
        found[name] = METRICS.find(thing)
    return found


def column(name: str, part: str = "validation") -> str:
    """Returns the name of a metric's column in records."""
    return f"{part}_{name}"


def own_metrics(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Returns the user's own functions among metrics, by name."""
    return {name: metric.function for name, metric in metrics.items() if metric is not _BUILT_IN.get(name)}


def measure_metrics(
    metrics: Mapping[str, Metric], outputs: Tensor, targets: Tensor, usable: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Measures metrics of a population.

    Args:
        metrics: The metrics by name.
        outputs: Outputs [K, n, ...] for the n examples of a part.
        targets: Their targets [n, ...].
        usable: Which individuals are measured [K]; the others get NaN.

    Returns:
        Values [K] by name.

    Raises:
        RunError: A metric failed.
    """
    values = {name: np.full(len(outputs), np.nan) for name in metrics}
    targets = targets.cpu()
    for k in np.flatnonzero(usable):
        own = outputs[k].to("cpu", torch.promote_types(outputs.dtype, torch.float32))
        for name, metric in metrics.items():
            try:
                values[name][k] = metric(own, targets)
            except Exception as error:
                raise RunError(f"the metric {name!r} failed: {type(error).__name__}: {error}") from error
    return values


class Measurable(Protocol):
    """The parts of a problem that a trial of its metrics needs; see :class:`evoprune.problem.problem.Problem`."""

    recipe: Recipe
    metrics: dict[str, Metric]
    is_classification: bool

    def network(self) -> nn.Module:
        """Returns a new network at W0."""

    def part(self, name: str) -> tuple[Inputs, Inputs]:
        """Returns the inputs, and the targets that outputs are compared with."""


def try_metrics(problem: Measurable) -> None:
    """Tries each metric on the first validation examples, before any long work, and the name by which training stops.

    Raises:
        InputError: One fails, or is not defined for the problem's targets.
    """
    stopping_of(problem)
    if not problem.metrics:
        return
    x, y = problem.part("validation")
    few = slice(measure_batch(x))
    inputs = x[few]
    x, y = inputs, (inputs if y is x else y[few]).cpu()
    with torch.no_grad(), noise(0, 0, str(x.device)):
        outputs = problem.network().eval()(x).cpu()
        for name, metric in problem.metrics.items():
            _require_kind(name, metric, problem.is_classification, outputs, y)
            try:
                metric(outputs, y)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"metric {name!r} fails for outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(y.shape)}: "
                    f"{type(error).__name__}: {error}. Expected a function (outputs, targets) that returns a number."
                ) from error


def stopping_of(problem: Measurable) -> tuple[str, float]:
    """Returns the column of the history by which the final training stops early, and 1 if larger is better there, else -1.

    Raises:
        InputError: The problem has no such column.
    """
    signs = {column(name): 1.0 if metric.larger_is_better else -1.0 for name, metric in problem.metrics.items()}
    known = {LOSS: -1.0, **({ACCURACY: 1.0} if problem.is_classification else {}), **signs}
    name = problem.recipe.stop_by or LOSS
    measured = name.removeprefix(column(""))
    if column(measured) not in known and measured in METRICS:
        raise InputError(
            f"unknown stop_by {name!r}: the metric {measured!r} is not measured; expected one of: {', '.join(sorted(known))}. "
            f"Give metrics={measured!r} (--metrics {measured}), too, and stop_by={column(measured)!r}."
        )
    meant = {"acc": ACCURACY, **{each.removeprefix(column("")): each for each in known}}
    return name, look_up("stop_by", name, known, meant.get(name, ""))


def _require_kind(name: str, metric: Metric, is_classification: bool, outputs: Tensor, targets: Tensor) -> None:
    if metric.needs == "classes" and not is_classification:
        raise InputError(f"metric {name!r} is defined for class labels only, and the targets are none; take mae or r2.")
    if metric.needs == "values" and not (targets.is_floating_point() and outputs.shape == targets.shape):
        raise InputError(
            f"metric {name!r} is defined for targets that are numbers of the outputs' shape; outputs have shape "
            f"{tuple(outputs.shape)}, targets {tuple(targets.shape)} and {targets.dtype}; for classes take top-5 or f1."
        )


def _collects(thing: Any) -> bool:
    return all(callable(getattr(thing, name, None)) for name in ("update", "compute", "reset"))


def _by_example(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns float64 scores [m, classes] and labels [m]; each place of an image that is labelled is an example."""
    return outputs.double().movedim(1, -1).flatten(0, -2), targets.flatten().long()


def _confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the number of examples of each class (rows) with each prediction (columns)."""
    scores, labels = _by_example(outputs, targets)
    classes = scores.shape[1]
    return torch.bincount(labels * classes + scores.argmax(dim=1), minlength=classes**2).view(classes, classes).double()
