import copy
import gzip
import json
import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import NARROW, narrow
from torch import nn
from torch.nn import functional as F

from evoprune.errors import InputError
from evoprune.problem.data import Data
from evoprune.problem.learning_rates import LEARNING_RATES
from evoprune.problem.losses import LOSSES
from evoprune.problem.models import MODELS
from evoprune.problem.optimizers import optimizers, without_compiler
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.problem.rehearsal import rehearse
from evoprune.problem.weights import INITIALIZATIONS

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4


def tensors(x=X, y=Y):
    """Data with all parts, so that nothing depends on a split."""
    return Data(train=(x, y), validation=(x[:20], y[:20]), test=(x[20:40], y[20:40]))


def module(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def own(**options):
    return Problem(options.pop("model", None) or module(), options.pop("data", None) or tensors(), **options)


@pytest.fixture(scope="module")
def digits():
    return Problem("mlp", "digits", widths=(7, 5), seed=3)


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def step(problem, network):
    x, y = problem.part("train")
    problem.loss(network(x), y).backward()
    problem.recipe.make_optimizer(list(network.parameters())).step()


# W0 and the network


@pytest.mark.parametrize("initialization", [name for name in INITIALIZATIONS if name != "given"])
def test_w0_comes_from_the_seed(initialization):
    def weights(seed):
        return state(Problem("mlp", tensors(), widths=(5,), seed=seed, initialization=initialization).network())

    assert same(weights(0), weights(0))
    zero, one = weights(0), weights(1)
    assert not any(torch.equal(zero[name], one[name]) for name in ("fc1.weight", "fc2.weight"))


@pytest.mark.parametrize("options", [{"recipe": Recipe(epochs=3)}, {"exclude": ["fc1"]}, {"loss": "mse"}, {"data": 0.5}])
def test_w0_does_not_depend_on_anything_else(options):
    options = dict(options)
    data = tensors(X * options.pop("data", 1.0), F.one_hot(Y).float() if options.get("loss") == "mse" else Y)
    plain = Problem("mlp", tensors(), widths=(5,))
    assert same(state(Problem("mlp", data, widths=(5,), **options).network()), state(plain.network()))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.filterwarnings("ignore:not prunable, and so dense. positions:evoprune.errors.UnprunableWarning")
def test_every_larger_model_makes_a_problem_with_images(name):
    problem = narrow(name)
    assert next(iter(problem.shapes.values()))[0] == NARROW[name][0]
    assert (problem.options.widths, problem.options.initialization) == (NARROW[name], "kaiming")
    assert problem.loss_name == MODELS[name].loss == "cross-entropy"
    assert problem.is_classification
    x, target = problem.part("test")
    assert torch.isfinite(problem.loss(problem.network()(x), target))
    assert rehearse(problem, problem.data)  # as a network of the user's, which has to give the same again


def test_a_larger_model_travels_as_its_name():
    problem = narrow("lenet-5")
    _, (config, own) = problem.__reduce__()
    assert (config["model"], own["model"]) == ("lenet-5", None)
    assert pickled(problem) == problem


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NARROW])
def test_every_model_makes_a_problem_with_digits(name):
    problem = Problem(name)
    inputs = 1 * 3 * 3 if name.startswith(("conv", "resnet")) else 64
    shape = next(iter(problem.shapes.values()))
    assert (shape[0], shape[1:].numel()) == (MODELS[name].widths[0], inputs)
    assert problem.options.widths == MODELS[name].widths
    assert problem.loss_name == MODELS[name].loss
    assert problem.options.initialization == "kaiming"
    assert problem.is_classification == (problem.loss_name == "cross-entropy")
    x, target = problem.part("test")
    assert torch.isfinite(problem.loss(problem.network()(x), target))
    assert (target is x) == (problem.loss_name == "reconstruction")
    assert rehearse(problem, problem.data) == problem.is_classification  # as a network of the user's


def test_lenet_on_digits_by_hand():
    problem = Problem()
    assert problem.prunable_count == 64 * 300 + 300 * 100 + 100 * 10
    assert {name: tuple(s) for name, s in problem.shapes.items()} == {
        "fc1.weight": (300, 64),
        "fc2.weight": (100, 300),
        "fc3.weight": (10, 100),
    }
    assert len(problem.data.train[0]) + len(problem.data.validation[0]) + len(problem.data.test[0]) == 1797


def test_networks_are_fresh_copies():
    problem = own()
    w0 = state(problem.network())
    network = problem.network()
    step(problem, network)
    changed = state(network)
    assert not torch.equal(changed["0.weight"], w0["0.weight"])
    assert not torch.equal(changed["1.running_mean"], w0["1.running_mean"])
    assert same(state(problem.network()), w0)
    assert w0["1.num_batches_tracked"] == 0  # the trial step within the constructor has left no trace
    assert all(p.grad is None for p in problem.network().parameters())


def test_the_users_module_is_never_changed():
    mine = module().eval()
    before = state(mine)
    problem = own(model=mine, initialization="kaiming", w0_density=0.5, dtype="float64")
    step(problem, problem.network())
    assert same(state(mine), before)
    assert not mine.training
    assert problem.network().training
    assert all(p.grad is None for p in mine.parameters())
    assert not same(state(problem.network()), before)


def test_a_change_of_the_users_module_does_not_reach_the_problem():
    mine = module()
    problem = own(model=mine)
    before = state(problem.network())
    nn.init.zeros_(mine[0].weight)
    assert same(state(problem.network()), before)
    assert same(state(pickled(problem).network()), before)


def test_a_change_of_the_users_tensors_does_not_reach_the_problem():
    x, y = X.clone(), Y.clone()
    problem = own(data=tensors(x, y))
    before = problem.data.train[0].clone()
    x.zero_()
    assert torch.equal(problem.data.train[0], before)
    assert pickled(problem).hash == problem.hash


def test_a_module_is_taken_as_given_and_a_function_is_called_under_the_seed():
    assert same(state(own(model=module(5), seed=1).network()), state(module(5)))
    make = partial(nn.Linear, 6, 4)
    assert same(state(own(model=make, seed=1).network()), state(own(model=make, seed=1).network()))
    assert not same(state(own(model=make, seed=1).network()), state(own(model=make, seed=2).network()))
    assert own(model=make).options.initialization == "given"


def test_making_a_problem_leaves_the_global_state():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4))
    before = torch.random.get_rng_state()
    own(model=model)
    own(model=partial(nn.Linear, 6, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_w0_is_scaled_for_a_density():
    plain, scaled = (state(own(w0_density=density).network()) for density in (None, 0.25))
    torch.testing.assert_close(scaled["0.weight"], 2 * plain["0.weight"])
    torch.testing.assert_close(scaled["3.weight"], 2 * plain["3.weight"])
    one = state(own(w0_density={"3.weight": 0.25}).network())
    assert torch.equal(one["3.weight"], scaled["3.weight"])
    assert all(torch.equal(one[name], plain[name]) for name in plain if name != "3.weight")
    # what is excluded stays dense, so its weights are not scaled
    assert torch.equal(state(own(w0_density=0.25, exclude="3").network())["3.weight"], plain["3.weight"])


def test_dtype_is_the_networks_and_the_inputs():
    problem = own(dtype="float64", data=tensors(X.numpy().astype(np.float16)))
    assert {p.dtype for p in problem.network().parameters()} == {torch.float64}
    assert problem.data.train[0].dtype == torch.float64
    assert problem.data.train[1].dtype == torch.int64
    assert own(data=tensors(X.double())).data.train[0].dtype == torch.float32


def test_excluded_weights_are_not_prunable():
    assert list(own().shapes) == ["0.weight", "3.weight"]
    assert list(own(exclude="3").shapes) == list(own(exclude=["3.weight"]).shapes) == ["0.weight"]
    assert own(exclude=["3"]).prunable_count == 48


# The recipe


@pytest.mark.parametrize(
    ("schedule", "factors"),
    # at 0, 1/4, 1/2 and 3/4 of the way
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("cosine", [1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5])],
)
def test_learning_rates_by_hand(schedule, factors):
    recipe = Recipe(epochs=2, lr=0.2, schedule=schedule)
    rates = [recipe.learning_rate(at, steps_per_epoch=4) for at in (0, 2, 4, 6)]
    assert rates == pytest.approx([0.2 * factor for factor in factors])


@pytest.mark.parametrize("schedule", sorted(set(LEARNING_RATES) - {"one-cycle"}))
def test_every_schedule_starts_at_the_learning_rate_and_never_rises(schedule):
    recipe = Recipe(epochs=3, lr=0.1, schedule=schedule)
    rates = [recipe.learning_rate(at, steps_per_epoch=5) for at in range(15)]
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_that_is_offered_takes_a_step(name):
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = Recipe(optimizer=name, lr=0.01, weight_decay=0.0).make_optimizer([weight])
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert type(optimizer).__name__ == name
    assert optimizer.param_groups[0]["lr"] == 0.01
    weight.square().sum().backward()
    optimizer.step()
    assert torch.isfinite(weight).all()
    assert (weight < 1).all()


@pytest.mark.parametrize("name", optimizers())
def test_an_optimizer_makes_the_steps_of_torchs_own_bit_for_bit(name):
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    trained = []
    for kind in (getattr(torch.optim, name), without_compiler(name)):
        weight = nn.Parameter(start.clone())
        options = {} if name == "Rprop" else {"weight_decay": 0.01}
        optimizer = kind([weight], lr=0.1, **options)
        for _ in range(4):
            optimizer.zero_grad()
            weight.pow(3).sum().backward()
            optimizer.step()
        trained.append(weight.detach())
    assert torch.equal(*trained)
    assert not torch.equal(trained[0], start)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_the_usual_optimizers_train_a_problem(name):
    problem = own(recipe=Recipe(optimizer=name, lr=0.01))
    network = problem.network()
    step(problem, network)
    assert not torch.equal(network[0].weight, problem.network()[0].weight)


def test_optimizers_that_cannot_train_here_are_not_offered():
    for name in ("LBFGS", "SparseAdam", "Optimizer", "lr_scheduler"):
        assert name not in optimizers()
        with pytest.raises(InputError, match=f"unknown optimizer '{name}'"):
            Recipe(optimizer=name)


def test_options_reach_the_optimizer():
    def group(**options):
        return Recipe(**options).make_optimizer([nn.Parameter(torch.zeros(2, 2))]).param_groups[0]

    sgd = group(lr=0.3, momentum=0.5, weight_decay=0.01, options={"nesterov": True})
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.3, 0.5, 0.01, True)
    assert group()["momentum"] == 0.9
    assert group(momentum=0.0)["momentum"] == 0
    adam = group(optimizer="Adam", options={"betas": (0.8, 0.9)})
    assert adam["betas"] == (0.8, 0.9)
    assert adam["weight_decay"] == 5e-4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.0),
        ("epochs", True),
        ("batch_size", 0),
        ("batch_size", -1),
        ("lr", 0),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", "0.1"),
        ("momentum", -1),
        ("momentum", math.nan),
        ("weight_decay", -1),
        ("weight_decay", math.nan),
        ("weight_decay", "x"),
    ],
)
def test_bad_values_are_refused(name, value):
    with pytest.raises(InputError) as error:
        Recipe(**{name: value})
    assert name in str(error.value)
    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"options": {"nosuch": 1}}, "torch.optim.SGD refuses .*nosuch"),
        ({"optimizer": "Adam", "momentum": 0.9}, "torch.optim.Adam refuses .*momentum"),
        ({"optimizer": "Adam", "options": {"betas": (2, 2)}}, "torch.optim.Adam refuses .*beta"),
    ],
)
def test_what_the_optimizer_refuses_is_said(options, said):
    with pytest.raises(InputError, match=said):
        Recipe(**options)


@pytest.mark.parametrize(("options", "hint"), [({"optimizer": "Adan"}, "Adam"), ({"schedule": "cosin"}, "cosine")])
def test_unknown_names_in_a_recipe_give_a_hint(options, hint):
    with pytest.raises(InputError, match=f"unknown {next(iter(options))} .*Did you mean '{hint}'"):
        Recipe(**options)


def test_a_recipe_is_a_value():
    assert Recipe(epochs=3) == Recipe(epochs=3) != Recipe(epochs=4)
    with pytest.raises(AttributeError):
        Recipe().lr = 1.0


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


def halved(outputs, targets):
    return F.cross_entropy(outputs, targets) / 2


def test_a_loss_of_the_users_own():
    problem = own(loss=halved)
    assert problem.loss_name == "own.halved"
    assert problem.chance_loss is None
    assert problem.is_classification
    x, y = problem.part("train")
    outputs = problem.network()(x)
    torch.testing.assert_close(problem.loss(outputs, y), F.cross_entropy(outputs, y) / 2)


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


def write_mnist(folder):
    folder.mkdir()
    for stem, shape in (("train-images-idx3", (60, 4, 4)), ("t10k-images-idx3", (20, 4, 4))):
        for name, array in (
            (stem, np.arange(math.prod(shape)).reshape(shape) % 251),
            (stem.replace("images-idx3", "labels-idx1"), np.arange(shape[0]) % 5),
        ):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
            (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning")
@pytest.mark.parametrize("given", ["data", "~/data"])
def test_a_data_folder_is_found_from_another_working_folder(tmp_path, monkeypatch, given):
    # as a worker's may be
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    problem = Problem("mlp", "mnist", data_dir=given)
    packed = pickle.dumps(problem)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(packed) == problem
    assert "data_dir" not in problem.config()  # a place, not a part of the problem


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


WHOLE = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


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
