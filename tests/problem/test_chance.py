"""Losses, and the loss of chance."""

import math
from functools import partial

import pytest
import torch
from support.problems import X, Y, halved, own, tensors
from torch import nn
from torch.nn import functional as F

from evoprune.problem.data import Data
from evoprune.problem.losses import LOSSES

# Losses and chance


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_mean_and_falls_at_the_target(name):
    if name == "cross-entropy":
        good, bad, target = 10 * F.one_hot(Y, 4).float(), -10 * F.one_hot(Y, 4).float(), Y
    else:
        good, bad, target = X, X + 1, X
    loss = LOSSES[name]
    assert loss(good, target).shape == ()
    assert loss(good, target) < 0.01 < loss(bad, target)
    torch.testing.assert_close(loss(torch.cat([bad, bad]), torch.cat([target, target])), loss(bad, target))


def test_the_loss_is_chosen_by_the_targets():
    assert own().loss_name == "cross-entropy"
    regression = own(data=tensors(y=torch.randn(60, 4)))
    assert regression.loss_name == "mse"
    assert not regression.is_classification
    assert own(model=partial(nn.Linear, 6, 6), loss="reconstruction").part("test")[1].shape == (20, 6)


def test_chance_for_balanced_classes_is_the_log_of_their_number():
    y = torch.arange(60) % 10
    assert own(model=nn.Linear(6, 10), data=tensors(y=y)).chance_loss == pytest.approx(math.log(10))


def test_chance_for_unequal_classes_is_their_entropy():
    validation = (X[:8], torch.tensor([0] * 4 + [1] * 2 + [3] * 2))
    problem = own(data=Data(train=(X, Y), validation=validation))
    assert problem.chance_loss == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    # the best constant prediction, in the network's own loss
    constant = torch.tensor([[0.5, 0.25, 0, 0.25]]).log().clamp(min=-1e9).expand(8, 4)
    assert problem.chance_loss == pytest.approx(float(problem.loss(constant, validation[1])))


def test_chance_for_squared_errors_is_the_variance():
    # means 1 and 2 by column: squares 1, 1, 4, 4
    validation = (X[:2], torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    problem = own(model=nn.Linear(6, 2), data=Data(train=(X, torch.randn(60, 2)), validation=validation))
    assert problem.chance_loss == pytest.approx(2.5)


def test_chance_for_reconstruction_is_the_variance_of_the_inputs():
    problem = own(model=nn.Linear(6, 6), loss="reconstruction")
    assert problem.chance_loss == pytest.approx(float(X[:20].double().var(0, correction=0).mean()))


def test_a_loss_of_the_users_own():
    problem = own(loss=halved)
    assert problem.loss_name == "own.halved"
    assert problem.chance_loss is None
    assert problem.is_classification
    x, y = problem.part("train")
    outputs = problem.network()(x)
    torch.testing.assert_close(problem.loss(outputs, y), F.cross_entropy(outputs, y) / 2)
