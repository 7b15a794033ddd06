"""Label smoothing, class weights and soft labels in cross-entropy, on every engine."""

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from support.engines import full_masks, group, trained
from support.networks import CLASSES, NETWORKS, examples
from torch.nn import functional as F

import evoprune as ep
from evoprune.engines.check import require
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError
from evoprune.training.measure import measure

WEIGHTS = (0.5, 1.0, 2.0, 3.0)
OPTIONS: dict[str, dict[str, Any]] = {
    "smoothing": {"label_smoothing": 0.2},
    "weights": {"class_weights": WEIGHTS},
    "balanced": {"class_weights": "balanced"},
    "both": {"label_smoothing": 0.1, "class_weights": WEIGHTS},
}


def problem_of(data: ep.Data | None = None, **options: Any) -> ep.Problem:
    make, shape = NETWORKS["sequential"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
    recipe = ep.Recipe(epochs=1, batch_size=16)
    return ep.Problem(network, data or examples(shape), recipe, dtype="float64", **options)


def keywords(problem: ep.Problem, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of torch's cross-entropy."""
    found = {"label_smoothing": options.get("label_smoothing", 0.0)}
    if (given := options.get("class_weights")) == "balanced":
        y = problem.part("train")[1]
        given = [len(y) / (CLASSES * int((y == label).sum())) for label in range(CLASSES)]
    return found | ({"weight": torch.tensor(given, dtype=torch.float64)} if given else {})


@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_is_that_of_torch(name: str) -> None:
    problem = problem_of(**OPTIONS[name])
    x, y = problem.part("train")
    outputs = problem.network()(x).detach()
    expected = F.cross_entropy(outputs, y, **keywords(problem, OPTIONS[name]))
    assert float(problem.loss(outputs, y)) == pytest.approx(float(expected))
    both = problem.losses(torch.stack([outputs, -outputs]), y)
    torch.testing.assert_close(both[0], expected)
    assert not torch.isclose(expected, F.cross_entropy(outputs, y), rtol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_engine_trains_by_it(name: str, engine: str) -> None:
    problem = problem_of(**OPTIONS[name])
    masks = full_masks(problem, 2)
    require(engine, problem)
    found, expected = (trained(problem, each, masks)[1] for each in (engine, "module"))
    for one, other in zip(found, expected, strict=True):
        for key, tensor in other.items():
            torch.testing.assert_close(one[key], tensor, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", OPTIONS)
def test_chance_is_the_best_constant_prediction(name: str) -> None:
    problem = problem_of(**OPTIONS[name])
    y = problem.part("validation")[1]

    def loss(logits: np.ndarray) -> float:
        constant = torch.from_numpy(logits).expand(len(y), CLASSES)
        return float(F.cross_entropy(constant, y, **keywords(problem, OPTIONS[name])))

    assert problem.chance_loss == pytest.approx(minimize(loss, np.zeros(CLASSES)).fun, rel=1e-6)


def test_the_options_count_in_the_hash_and_are_recorded_where_they_are_given() -> None:
    problems = [problem_of(), *(problem_of(**options) for options in OPTIONS.values())]
    assert len({problem.hash for problem in problems}) == len(problems)
    assert not {"label_smoothing", "class_weights"} & set(problems[0].config())
    both = json.loads(json.dumps(problems[-1].config()))
    assert (both["label_smoothing"], both["class_weights"], both["loss"]) == (0.1, list(WEIGHTS), "cross-entropy")
    twin = pickle.loads(pickle.dumps(problems[-1]))
    assert twin.hash == problems[-1].hash
    assert problem_of(class_weights=[0.5, 1, 2, 3]).hash == problems[2].hash


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected a number from 0 to below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"class_weights": (1.0, 2.0)}, "class_weights are 2 numbers.*expected 4, one a class"),
        ({"class_weights": (1.0, 0.0, 1.0, 1.0)}, "class_weights are .*numbers above 0"),
        ({"class_weights": "equal"}, "class_weights are 'equal'; expected numbers above 0"),
        ({"label_smoothing": 0.1, "loss": "mse"}, "the loss is 'mse'; they go with the loss 'cross-entropy'"),
        ({"label_smoothing": 0.1, "loss": F.cross_entropy}, "cross_entropy'; they go with the loss 'cross-entropy'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        problem_of(**options)


def test_balanced_weights_need_an_example_of_every_class() -> None:
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    validation = (x[:8], torch.arange(8) % 4)
    with pytest.raises(InputError, match=r"no training example is of the classes \[3\]"):
        problem_of(ep.Data((x, y), validation, validation), class_weights="balanced")


def test_soft_labels_train_alike_on_every_engine_and_have_no_accuracy(engine: str) -> None:
    hard = examples((6,))
    parts = [(x, 0.9 * F.one_hot(y, CLASSES).double() + 0.1 / CLASSES) for x, y in hard.parts().values()]
    problem = problem_of(ep.Data(*parts), loss="cross-entropy")
    smoothed = problem_of(label_smoothing=0.1)  # the same loss of the same examples
    masks = full_masks(problem, 2)
    for one, other in zip(trained(problem, engine, masks)[1], trained(smoothed, "module", masks)[1], strict=True):
        for key, tensor in other.items():
            torch.testing.assert_close(one[key], tensor, rtol=1e-8, atol=1e-10)
    assert not problem.is_classification
    found = measure(ENGINES[engine].build(problem, group(engine, masks)), problem, "validation")
    assert np.isnan(found.accuracy).all() and all(math.isfinite(loss) for loss in found.loss)
    assert problem.chance_loss is None


@pytest.mark.parametrize("own", [False, True])
def test_weighted_losses_are_the_weighted_mean_of_the_part_in_any_order_and_batches(own: bool) -> None:
    rng = np.random.default_rng(0)
    y = np.sort(rng.choice(3, 2500, p=[0.7, 0.2, 0.1]))  # a batch of 1000 has one class or two
    x = rng.normal(size=(2500, 4)).astype(np.float32) + y[:, None].astype(np.float32)
    weights = torch.tensor([0.5, 2.0, 3.0])
    options: dict[str, Any] = {"class_weights": (0.5, 2.0, 3.0)}
    if own:
        options = {"loss": torch.nn.CrossEntropyLoss(weight=weights)}
    problem = ep.Problem("mlp", ep.Data(train=(x, y), test=(x, y)), ep.Recipe(epochs=1), widths=(4,), **options)
    population = ENGINES["module"].build(problem, full_masks(problem, 1))
    found = measure(population, problem, "test").loss
    with torch.no_grad():
        expected = F.cross_entropy(population(torch.from_numpy(x))[0], torch.from_numpy(y), weight=weights)
    assert found == pytest.approx([float(expected)], rel=1e-5)


@pytest.mark.parametrize("given", [np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [1, 2]])
def test_class_weights_are_taken_as_arrays(given: Any) -> None:
    data = ep.Data(train=(torch.rand(40, 3), torch.arange(40) % 2))
    problem = ep.Problem("mlp", data, widths=(4,), class_weights=given)
    assert problem.options.class_weights == (1.0, 2.0)
    for wrong in (3, "heavy", [], [1.0, "two"]):
        with pytest.raises(InputError, match=r"class_weights are .*; expected numbers above 0, one a class, or 'balanced'"):
            ep.Problem("mlp", data, widths=(4,), class_weights=wrong)
