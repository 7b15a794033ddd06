"""The hash of a problem, and problems in other processes."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from support.problems import X, Y, halved, module, own, pickled, same, state, tensors
from torch import nn
from torch.nn import functional as F

from evoprune.errors import InputError
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe


@pytest.fixture(scope="module")
def digits():
    return Problem("mlp", "digits", widths=(7, 5), seed=3)


# Hash, equality, pickling, configuration


def other_w0():
    network = module()
    with torch.no_grad():
        network[0].weight[3, 3] += 1e-3
    return network


def other_buffer():
    network = module()
    network[1].running_mean[2] = 1e-3
    return network


def other_repr():
    network = module()
    network[2] = nn.Tanh()
    return network


X2, Y2 = X.clone(), Y.clone()

X2[7, 2] += 1e-3

Y2[7] = (Y2[7] + 1) % 4


CHANGES = {
    "one weight": {"model": other_w0()},
    "one buffer": {"model": other_buffer()},
    "activation": {"model": other_repr()},
    "one input": {"data": Data(train=(X2, Y), validation=(X[:20], Y[:20]), test=(X[20:40], Y[20:40]))},
    "one label": {"data": Data(train=(X, Y2), validation=(X[:20], Y[:20]), test=(X[20:40], Y[20:40]))},
    "one validation label": {"data": Data(train=(X, Y), validation=(X[:20], Y2[:20]), test=(X[20:40], Y[20:40]))},
    "one test label": {"data": Data(train=(X, Y), validation=(X[:20], Y[:20]), test=(X[20:40], (Y[20:40] + 1) % 4))},
    "epochs": {"recipe": Recipe(epochs=16)},
    "batch size": {"recipe": Recipe(batch_size=60)},
    "optimizer": {"recipe": Recipe(optimizer="Adam")},
    "learning rate": {"recipe": Recipe(lr=0.051)},
    "options": {"recipe": Recipe(options={"nesterov": True})},
    "schedule": {"recipe": Recipe(schedule="linear")},
    "loss": {"loss": halved},
    "exclusion": {"exclude": ["3"]},
    "seed": {"seed": 1},
    "scale": {"w0_density": 0.5},
    "dtype": {"dtype": "float64"},
    "initialization": {"initialization": "xavier"},
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_hash_differs_where_the_problem_does(change):
    plain, changed = own(), own(**change)
    assert changed.hash != plain.hash
    assert changed != plain
    assert changed == own(**change)
    assert hash(changed) == hash(own(**change))


def test_the_same_bytes_in_another_shape_are_other_data():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    tall, wide = (own(model=network, data=tensors(X.reshape(60, *shape))) for shape in ((3, 2), (2, 3)))
    assert tall != wide


def test_equal_problems_have_equal_hashes(digits):
    again = Problem("mlp", "digits", widths=[7, 5], seed=3, recipe=Recipe())
    assert again is not digits
    assert again == digits
    assert again.hash == digits.hash
    assert len(digits.hash) == 64
    assert digits != "mlp"
    assert len({digits, again, own()}) == 2


LOSS_PAIRS = {
    "modules": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.3)),
    "partial": (partial(F.cross_entropy, label_smoothing=0.1), partial(F.cross_entropy, label_smoothing=0.3)),
}


@pytest.mark.parametrize("pair", LOSS_PAIRS.values(), ids=LOSS_PAIRS.keys())
def test_losses_that_differ_make_problems_that_differ(pair):
    # workers keep problems by their hash: an equal one would be trained with the other's loss
    one, two = (own(loss=loss) for loss in pair)
    assert one != two


class Scaled(nn.Module):
    """A buffer that no state_dict holds."""

    def __init__(self, scale):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x):
        return self.layer(x) * self.scale


def test_buffers_that_are_not_saved_count_in_the_hash():
    assert own(model=Scaled(1.0)) != own(model=Scaled(2.0))
    assert own(model=Scaled(1.0)) == own(model=Scaled(1.0))


@pytest.mark.process
def test_the_hash_is_that_of_a_new_process(digits, tmp_path):
    mine = own()
    path = tmp_path / "problems.pickle"
    path.write_bytes(pickle.dumps([digits, mine]))
    code = f"import pickle; print(*(p.hash for p in pickle.load(open({str(path)!r}, 'rb'))))"
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [digits.hash, mine.hash]


def test_a_problem_of_names_pickles_as_names(digits):
    assert len(pickle.dumps(digits)) < 1000
    twin = pickled(digits)
    assert twin == digits
    assert twin.config() == digits.config()
    assert same(state(twin.network()), state(digits.network()))


def test_a_problem_of_own_module_tensors_and_loss_pickles():
    problem = own(loss=halved, exclude=["3"], w0_density=0.5, recipe=Recipe(epochs=2))
    for twin in (pickled(problem), copy.deepcopy(problem)):
        assert twin == problem
        assert same(state(twin.network()), state(problem.network()))
        assert list(twin.shapes) == ["0.weight"]
        assert twin.loss(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)) == pytest.approx(math.log(4) / 2)


def test_a_pickled_factory_and_split_give_the_same_problem():
    problem = Problem(partial(nn.Linear, 6, 4), Data(train=(X, Y)), seed=5)
    twin = pickled(problem)
    assert twin == problem
    assert torch.equal(twin.data.test[0], problem.data.test[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "autoencoder", "widths": (9, 4), "dtype": "float64"},
        {"model": "mlp", "exclude": ["fc1"], "w0_density": {"fc2.weight": 0.1}, "normalize": False, "seed": 9},
        {"recipe": Recipe(3, 32, "Adam", 0.001, schedule="linear", options={"betas": (0.8, 0.9)}), "initialization": "xavier"},
        {"validation_fraction": 0.3, "test_fraction": 0.1, "w0_density": 0.5, "recipe": Recipe(momentum=0.5)},
    ],
    ids=["defaults", "autoencoder", "mlp", "adam", "split"],
)
def test_the_configuration_round_trips_through_json(options):
    problem = Problem(**options)
    config = json.loads(json.dumps(problem.config()))
    twin = Problem.from_config(config)
    assert twin == problem
    assert json.loads(json.dumps(twin.config())) == config


def test_the_configuration_names_what_is_the_users_own():
    data = Data((X, Y), (X, Y), name="mine")
    problem = own(loss=halved, data=data)
    config = json.loads(json.dumps(problem.config()))
    assert config["model"] == "torch.nn.modules.container.Sequential"
    assert config["data"] == "mine"
    assert config["loss"].endswith("halved")
    assert Problem.from_config(config, model=module(), data=data, loss=halved) == problem
    with pytest.raises(InputError):
        Problem.from_config(config)  # the names alone do not bring it back


class Slope(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope
        self.linear = nn.Linear(6, 3)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return F.leaky_relu(self.linear(x), self.slope)


def test_hash_sees_settings_that_the_repr_does_not_show(tensors):
    assert Problem(Slope(0.1), tensors).hash == Problem(Slope(0.1), tensors).hash
    assert Problem(Slope(0.1), tensors).hash != Problem(Slope(0.3), tensors).hash
