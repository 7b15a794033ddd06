"""Values and parts that do not fit together."""

from functools import partial

import pytest
import torch
from support.problems import X, Y, own
from torch import nn
from torch.nn import functional as F

from evoprune.errors import InputError
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

# What does not fit is said at once


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "lenet-300-10"}, "unknown model .*Did you mean 'lenet-300-100'"),
        ({"data": "digit"}, "unknown data set .*Did you mean 'digits'"),
        ({"loss": "cross-entrpy"}, "unknown loss .*Did you mean 'cross-entropy'"),
        ({"initialization": "xavir"}, "unknown initialization .*Did you mean 'xavier'"),
        ({"dtype": "float23"}, "unknown dtype .*Did you mean 'float32'"),
        ({"device": "cpuu"}, "device 'cpuu' cannot be used here.*'cpu'"),
        ({"seed": -1}, "non-negative integer"),
        ({"exclude": ["fc9"]}, "cannot exclude 'fc9'"),
        ({"w0_density": 0}, r"expected one in \(0, 1\]"),
        ({"w0_density": {"fc9.weight": 0.5}}, "unknown prunable weights 'fc9.weight'"),
        ({"widths": (3, 4)}, "use the model 'mlp'"),
        ({"validation_fraction": 0}, "validation fraction"),
        ({"data": (X, Y)}, r"data is tuple; expected a name or ep.Data"),
        ({"model": 3}, "int"),
        ({"model": lambda: "network"}, "model made str; expected a torch.nn.Module"),
        ({"model": nn.Linear}, "in_features"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_values_that_cannot_be_served_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Problem(**options)


def test_widths_go_with_a_named_model():
    with pytest.raises(InputError, match="widths"):
        own(widths=(3,))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": nn.Linear(6, 3)}, "labels from 0 to 3, but the network has 3 outputs; expected labels from 0 to 2"),
        ({"data": Data((X, Y), (X, Y), (X, Y + 7))}, "test has labels from 7 to 10"),
        ({"data": Data((X, Y - 1), (X, Y), (X, Y))}, "train has labels from -1"),
        ({"model": nn.Linear(5, 4)}, r"inputs \(60, 6\).*5"),
        ({"model": nn.Linear(6, 4), "data": Data((X.to(torch.uint8), Y), (X, Y), (X, Y))}, "uint8.*dtype"),
        ({"loss": partial(F.cross_entropy, reduction="none")}, r"the loss has shape \(60,\); expected the batch's mean"),
        ({"loss": lambda out, y: 1.0}, "one training step failed"),
        ({"loss": lambda out: out.sum()}, "one training step failed"),
        ({"loss": 3}, "one training step failed"),
        ({"recipe": Recipe(batch_size=59)}, "more than 1 value per channel"),
        ({"recipe": Recipe(batch_size=1)}, "more than 1 value per channel"),
        ({"model": nn.Linear(6, 4), "loss": "mse"}, "expected the same"),
    ],
    ids=[
        "outputs",
        "test labels",
        "negative",
        "width",
        "dtype",
        "vector",
        "number",
        "one argument",
        "no loss",
        "last",
        "one",
        "mse",
    ],
)
def test_what_does_not_fit_together_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        own(**options)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_every_part_must_fit_the_network(part):
    # not only after the search
    parts = {"train": (X, Y), "validation": (X, Y), "test": (X, Y)}
    with pytest.raises(InputError, match=part):
        own(data=Data(**parts | {part: (X[:, :5], Y)}))
    with pytest.raises(InputError, match=part):
        own(data=Data(**parts | {part: (X, Y.float())}))


def test_a_last_batch_of_one_is_no_matter_without_batch_normalisation():
    assert own(model=nn.Linear(6, 4), recipe=Recipe(batch_size=59)).prunable_count == 24


def test_outputs_that_would_broadcast_against_the_targets_are_refused(tensors):
    x, y = tensors.train
    with pytest.raises(InputError, match="expected the same"):
        Problem(nn.Linear(6, 1), Data(train=(x, y.float())))


def test_accuracy_is_defined_for_an_output_a_class_alone(tensors):
    x, y = tensors.train
    assert Problem(nn.Linear(6, 3), tensors).is_classification
    own = Problem(nn.Linear(6, 1), Data(train=(x, y > 0)), loss=one_sided)
    assert not own.is_classification


def one_sided(outputs, target):
    return F.binary_cross_entropy_with_logits(outputs[:, 0], target.float())


def mse(outputs, targets):
    return 3 * F.cross_entropy(outputs, targets)


def test_a_loss_that_has_the_name_of_a_built_in_one_is_the_users(tensors):
    problem = Problem(model=nn.Linear(6, 3), data=tensors, loss=mse)
    outputs, targets = torch.randn(2, 5, 3), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(problem.losses(outputs, targets), torch.stack([mse(output, targets) for output in outputs]))
    assert problem.hash != Problem(model=problem.network(), data=tensors, loss=F.cross_entropy).hash
