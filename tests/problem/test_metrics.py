"""Metrics: their formulas, the objects and functions that are taken, and what a problem makes of them."""

import math
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

import evoprune as ep
from evoprune.errors import InputError, RunError
from evoprune.problem.metrics import METRICS, find_metrics, measure_metrics

CLASSES = 7


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    """Scores of 80 examples of which half are right; one class has no example, and another is never predicted."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, CLASSES - 1, (80,), generator=generator)
    scores = torch.randn(80, CLASSES, generator=generator) + 1.5 * torch.eye(CLASSES)[labels]
    scores[:, 2] = -9
    return scores, labels


def test_top_5_counts_the_classes_ahead() -> None:
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    labels = torch.tensor([4, 5, 4, 5])  # fifth, sixth, and the same among equal outputs
    assert METRICS["top-5"](scores, labels) == 0.5
    assert METRICS["top-5"](scores[:1], labels[:1]) == 1


def test_top_5_is_that_of_sklearn(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    expected = reference.top_k_accuracy_score(labels, scores, k=5, labels=range(CLASSES))
    assert METRICS["top-5"](scores, labels) == pytest.approx(expected, abs=1e-15)
    assert 0.5 < expected < 1


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_class_metrics_are_those_of_sklearn(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    predicted = scores.argmax(1)
    assert METRICS["f1"](scores, labels) == pytest.approx(reference.f1_score(labels, predicted, average="macro"), abs=1e-15)
    assert METRICS["balanced-accuracy"](scores, labels) == pytest.approx(
        reference.balanced_accuracy_score(labels, predicted), abs=1e-15
    )


def test_f1_and_balanced_accuracy_by_hand() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    scores = torch.eye(3)[predicted]
    # class 0: 2 right, 1 missed; class 1: 1 right, 1 wrong; class 2 is nowhere
    assert METRICS["f1"](scores, labels) == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-15)
    assert METRICS["balanced-accuracy"](scores, labels) == pytest.approx((2 / 3 + 1) / 2, abs=1e-15)


def test_the_calibration_error_is_the_sum_over_bins(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    confidence, predicted = scores.double().softmax(1).max(1)
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            accuracy = (predicted == labels)[inside].double().mean()
            expected += float(inside.sum()) / len(labels) * float((accuracy - confidence[inside].mean()).abs())
    assert METRICS["ece"](scores, labels) == pytest.approx(expected, abs=1e-12)
    sure = torch.tensor([[100.0, 0], [100, 0], [100, 0], [100, 0]])  # of confidence 1, and right in one case of four
    assert METRICS["ece"](sure, torch.tensor([0, 1, 1, 1])) == pytest.approx(0.75)


def test_errors_of_a_regression_are_those_of_sklearn() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(30, 4, generator=generator) * torch.tensor([1.0, 2, 3, 4])
    outputs = targets + 0.3 * torch.randn(30, 4, generator=generator)
    assert METRICS["mae"](outputs, targets) == pytest.approx(reference.mean_absolute_error(targets, outputs), abs=1e-7)
    expected = reference.r2_score(targets, outputs, multioutput="variance_weighted")
    assert METRICS["r2"](outputs, targets) == pytest.approx(expected, abs=1e-7)
    targets[:, 3] = 7  # a constant output counts by its errors
    errors, spread = (outputs - targets).square().sum(), (targets - targets.mean(0)).square().sum()
    assert METRICS["r2"](outputs, targets) == pytest.approx(float(1 - errors / spread), abs=1e-6)
    assert METRICS["r2"](targets.mean(0).expand(30, 4), targets) == pytest.approx(0, abs=1e-6)
    assert not math.isfinite(METRICS["r2"](outputs, torch.ones(30, 4)))


def test_each_place_of_a_labelled_image_is_an_example(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    images, maps = scores.view(5, 4, 4, CLASSES).movedim(-1, 1), labels.view(5, 4, 4)
    for name in ("top-5", "f1", "balanced-accuracy", "ece"):
        assert METRICS[name](images, maps) == METRICS[name](scores, labels)


class Hits:
    """Collects as the metrics of torchmetrics do."""

    higher_is_better = True

    def __init__(self) -> None:
        self.hits = self.seen = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.hits += int((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> Tensor:
        return torch.tensor(self.hits / self.seen)

    def reset(self) -> None:
        self.hits = self.seen = 0


def worst(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none").max()


worst.higher_is_better = False  # type: ignore[attr-defined]


def test_an_object_that_collects_is_copied_for_each_individual(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    collector = Hits()
    collector.update(scores, labels)
    kept = vars(collector).copy()
    (metric,) = find_metrics([collector]).values()
    right = float((scores.argmax(1) == labels).double().mean())
    assert [metric(scores, labels) for _ in range(3)] == pytest.approx([right] * 3)
    assert vars(collector) == kept


def test_a_population_has_the_values_of_each_alone(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    outputs = torch.stack([scores, -scores, scores * torch.nan, scores.flip(0)])
    metrics = find_metrics(("f1", "ece", worst, Hits()))
    found = measure_metrics(metrics, outputs, labels, np.array([True, True, False, True]))
    assert list(found) == ["f1", "ece", "own.worst", "own.Hits"]
    for name, values in found.items():
        assert [values[0], values[1], values[3]] == [metrics[name](outputs[k], labels) for k in (0, 1, 3)]
        assert math.isnan(values[2])
        assert len(set(values.tolist())) == 4


def test_half_precision_reaches_a_metric_as_floats(drawn: tuple[Tensor, Tensor]) -> None:
    kinds = []
    measure_metrics(
        find_metrics([lambda outputs, targets: kinds.append(outputs.dtype) or 0.0]),
        drawn[0].bfloat16()[None],
        drawn[1],
        np.array([True]),
    )
    assert kinds == [torch.float32]


def test_a_metric_that_fails_is_named(drawn: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(RunError, match=r"the metric 'own.*<lambda>' failed: ZeroDivisionError"):
        measure_metrics(find_metrics([lambda outputs, targets: 1 / 0]), drawn[0][None], drawn[1], np.array([True]))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (("f2",), r"unknown metric 'f2'; expected one of: .*f1"),
        (("f1", "f1"), "two metrics have the name 'f1'"),
        ((3,), "a metric is int; expected a name, a function"),
        (({"loss": worst}), "has the name of a column"),
    ],
)
def test_metrics_that_cannot_be_named_are_refused(metrics: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_metrics(metrics)


X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))


def problem(metrics: Any = (), classes: int = 3, recipe: ep.Recipe | None = None, **options: Any) -> ep.Problem:
    data = ep.Data(train=(X, torch.arange(60) % classes))
    return ep.Problem("mlp", data, recipe or ep.Recipe(epochs=2), widths=(5,), metrics=metrics, **options)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("top-5", "always 1 for 3 classes"),
        ("mae", "'mae' is defined for targets that are numbers of the outputs' shape; .* take top-5 or f1"),
        (lambda outputs: 0, r"metric 'own.*<lambda>' fails for outputs of shape \(6, 3\).* that returns a number"),
        (lambda outputs, targets: outputs, "fails for outputs"),
    ],
)
def test_metrics_are_tried_when_a_problem_is_made(metrics: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        problem(metrics)


def test_class_metrics_of_a_regression_are_refused() -> None:
    data = ep.Data(train=(X, X[:, :2].clone()))
    with pytest.raises(InputError, match=r"'f1' is defined for class labels only.* take mae or r2"):
        ep.Problem(torch.nn.Linear(6, 2), data, metrics="f1")
    assert list(ep.Problem(torch.nn.Linear(6, 2), data, metrics=("mae", "r2")).metrics) == ["mae", "r2"]


@pytest.fixture
def registered() -> Iterator[None]:
    ep.register.metric("worst", worst)
    yield
    METRICS.forget("worst")


def test_a_problem_takes_names_and_functions_and_its_hash_does_not_count_them(registered: None) -> None:
    plain, measured = problem(), problem(("f1", worst, Hits()))
    assert "metrics" not in plain.config()
    assert measured.config()["metrics"] == ["f1", "worst", "own.Hits"]
    assert measured.hash == plain.hash
    assert {name: metric.larger_is_better for name, metric in measured.metrics.items()} == {
        "f1": True, "worst": False, "own.Hits": True,
    }  # fmt: skip


def test_metrics_travel_with_their_names(registered: None) -> None:
    content = cloudpickle.dumps(problem(("f1", worst, Hits())))
    METRICS.forget("worst")
    there = pickle.loads(content)
    assert list(there.metrics) == ["f1", "worst", "own.Hits"]
    assert there.config()["metrics"] == ["f1", "worst", "own.Hits"]
    scores, labels = torch.eye(3), torch.tensor([0, 1, 1])
    assert there.metrics["own.Hits"](scores, labels) == pytest.approx(2 / 3)


def test_a_metric_that_stops_the_training_counts_in_the_hash() -> None:
    def by(metric: Any, name: str, **options: Any) -> str:
        return problem(metric, recipe=ep.Recipe(epochs=2, stop_patience=1, stop_by=f"validation_{name}"), **options).hash

    def other(outputs: Tensor, targets: Tensor) -> float:
        return 1.0

    other.__qualname__ = "worst"
    hashes = [problem(recipe=ep.Recipe(epochs=2, stop_patience=1)).hash, by("f1", "f1"), by(worst, "own.worst")]
    assert len({problem().hash, *hashes, by(other, "own.worst")}) == 5
    assert len({by(each, "own.worst", identity="mine") for each in (worst, other)}) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stop_patience": 0}, "stop_patience is 0; expected a positive integer"),
        ({"stop_patience": True}, "stop_patience is True"),
        ({"stop_by": "validation_loss"}, "no stop_patience is given"),
        (
            {"stop_patience": 2, "stop_by": "validation_acc"},
            "unknown stop_by 'validation_acc'.*Did you mean 'validation_accuracy'",
        ),
        ({"stop_patience": 2, "stop_by": "validation_f1"}, "unknown stop_by 'validation_f1'"),
    ],
)
def test_early_stopping_that_cannot_be_served_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        problem(recipe=ep.Recipe(epochs=2, **options))


def test_recipes_without_early_stopping_are_recorded_as_before() -> None:
    assert ep.Recipe().recorded() == {
        "epochs": 15, "batch_size": 64, "optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4,
        "schedule": "cosine", "options": {},
    }  # fmt: skip
    assert ep.Recipe(stop_patience=3).recorded()["stop_patience"] == 3
    with pytest.raises(InputError, match="accuracy"):
        ep.Problem(torch.nn.Linear(6, 2), ep.Data(train=(X, X[:, :2].clone())),
                   ep.Recipe(stop_patience=1, stop_by="validation_accuracy"))  # fmt: skip
