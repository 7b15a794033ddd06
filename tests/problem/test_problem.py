"""Problems: W0, fresh networks, and what reaches a problem."""

import gzip
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from support.models import NARROW, narrow
from support.problems import X, Y, module, own, pickled, same, state, step, tensors
from torch import nn
from torch.nn import functional as F

from evoprune.problem.models import MODELS
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe
from evoprune.problem.rehearsal import rehearse
from evoprune.problem.weights import INITIALIZATIONS

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
