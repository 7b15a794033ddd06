"""Metrics of torchmetrics by name: of a package of its face, and of itself where it is installed."""

import pickle
import sys
import types

import cloudpickle
import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.errors import InputError
from evoprune.problem.metrics import METRICS, find_metrics, measure_metrics, own_metrics

OUTPUTS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [4.0, 0.0, 1.0]])
LABELS = torch.tensor([0, 1, 1, 2])


class Base:
    higher_is_better: bool | None = True

    def __init__(self):
        self.hits = self.count = 0

    def update(self, outputs, targets):
        assert outputs.shape[1] == self.classes
        self.hits += int((outputs.argmax(1) == targets).sum())
        self.count += len(targets)

    def compute(self):
        return torch.tensor(self.hits / self.count)


class OfClasses(Base):
    def __init__(self, num_classes, average="macro"):
        super().__init__()
        self.classes = num_classes


class OfTask:
    """Makes another class, as those of torchmetrics do that take a task."""

    def __new__(cls, task, num_classes=None):
        assert task == "multiclass"
        return OfClasses(num_classes)


class Error(Base):
    higher_is_better = False

    def update(self, outputs, targets):
        self.hits, self.count = float((outputs - targets).abs().sum()), targets.numel()


class Needy(Base):
    def __init__(self, num_classes, min_recall):
        """Needs an argument that no data tell."""


@pytest.fixture
def package(monkeypatch):
    classes = {"classification": {"OfClasses": OfClasses, "OfTask": OfTask, "Needy": Needy}, "regression": {"Error": Error}}
    for part, members in {"": {}, **classes}.items():
        module = types.ModuleType(f"torchmetrics.{part}".rstrip("."))
        vars(module).update(members, __all__=list(members))
        monkeypatch.setitem(sys.modules, module.__name__, module)


def value(name, outputs=OUTPUTS, targets=LABELS):
    return METRICS.find(f"torchmetrics:{name}")(outputs, targets)


@pytest.mark.parametrize("name", ["OfClasses", "OfTask"])
def test_the_data_give_the_number_of_classes(package, name):
    assert value(name) == 0.5
    assert value(name) == 0.5  # of no earlier batch
    assert value(name, torch.eye(5), torch.tensor([0, 1, 2, 3, 0])) == pytest.approx(0.8)


def test_numbers_are_compared_as_they_are(package):
    assert value("Error", torch.ones(4, 2), torch.zeros(4, 2)) == 1.0
    assert not METRICS.find("torchmetrics:Error").larger_is_better
    assert METRICS.find("torchmetrics:OfTask").larger_is_better


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("OfTsk", "unknown metric of torchmetrics 'OfTsk'; expected one of: .*Did you mean 'OfTask'"),
        ("", "unknown metric of torchmetrics ''"),
        (
            "Needy",
            r"Needy' cannot be made of the number of classes alone: TypeError.*\[torchmetrics.Needy\(...\)\]",
        ),
    ],
)
def test_names_that_cannot_be_served_are_refused(package, name, said):
    with pytest.raises(InputError, match=said):
        find_metrics([f"torchmetrics:{name}"])


def test_metrics_of_classes_are_refused_for_numbers(package):
    data = ep.Data(train=(torch.ones(20, 3), torch.rand(20, 2)))
    with pytest.raises(InputError, match="metric 'torchmetrics:OfTask' is defined for class labels only"):
        ep.Problem(torch.nn.Linear(3, 2), data, metrics=("torchmetrics:OfTask",))


def test_a_package_that_is_missing_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "torchmetrics.classification", raising=False)
    with pytest.raises(InputError, match=r"package torchmetrics, which cannot be .*pip install 'evoprune\[torchmetrics\]'"):
        METRICS.find("torchmetrics:F1Score")
    with pytest.raises(InputError, match="Did you mean 'torchmetrics:NAME'"):
        METRICS.find("torchmetrics")


def problem(**options):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    data = ep.Data(train=(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()))
    return ep.Problem("mlp", data, ep.Recipe(epochs=1, **options), widths=(3,), metrics=("torchmetrics:OfTask",), seed=0)


def test_records_and_workers_have_the_name(package):
    made = problem()
    assert made.config()["metrics"] == ["torchmetrics:OfTask"]
    assert list(own_metrics(made.metrics)) == ["torchmetrics:OfTask"]
    again = pickle.loads(cloudpickle.dumps(made))
    assert again == made and again.config() == made.config()
    assert again.metrics["torchmetrics:OfTask"].needs == "classes"
    summary = ep.prune(made, "erk", sparsity=0.5, engine="module").summary
    assert summary["test_torchmetrics:OfTask"] == summary["test_accuracy"]
    stopping = {"stop_patience": 1, "stop_by": "validation_torchmetrics:OfTask"}
    assert len({made.hash, problem(stop_patience=1).hash, problem(**stopping).hash}) == 3
    assert problem(**stopping).hash == problem(**stopping).hash


@pytest.fixture(scope="module")
def installed():
    return pytest.importorskip("torchmetrics", reason="torchmetrics is an optional extra")


def test_the_package_itself_agrees_with_ours(installed):
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(size=(1, 200, 6)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 6, 200))
    same = {"MulticlassF1Score": "f1", "CalibrationError": "ece"}
    metrics = find_metrics([*same.values(), *(f"torchmetrics:{name}" for name in same)])
    found = measure_metrics(metrics, outputs, labels, np.ones(1, bool))
    for theirs, ours in same.items():
        assert found[f"torchmetrics:{theirs}"] == pytest.approx(found[ours], rel=1e-4)
    assert METRICS.find("torchmetrics:F1Score").larger_is_better
    assert not METRICS.find("torchmetrics:MeanSquaredError").larger_is_better
    assert value("MeanSquaredError", torch.full((4, 2), 3.0), torch.zeros(4, 2)) == 9.0
