"""Outputs and layers that a mask cuts off."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.masks import few, problem_of, random_bits
from torch import nn
from torch.nn import functional as F

from evoprune.masks import collapse
from evoprune.masks.collapse import Collapse
from evoprune.masks.mask import Mask
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem


def cut(problem, **layers):
    """The full mask of a problem, with layers (by position in the network) replaced."""
    shapes = {name: tuple(shape) for name, shape in problem.shapes.items()}
    whole = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    for name, layer in layers.items():
        whole[name] = np.array(layer, bool).reshape(shapes[name])
    return Mask.from_layers(whole)


def test_a_full_mask_cuts_nothing_off(small):
    report = cut(small).collapse(small)
    assert report == Collapse((), ())
    assert not report
    assert str(report) == ""


def test_an_empty_layer_is_named_and_cuts_all_outputs_off(small):
    report = cut(small, **{"0.weight": [0] * 6}).collapse(small)
    assert report == Collapse(("0.weight",), (0, 1))
    assert report
    assert str(report) == "no survivors in 0.weight; no path to 2 outputs (0, 1)"


# output 0 hangs on hidden unit 1, and no input reaches that: it passes on its bias alone, which counts as no path
ONE_CUT = {"first": [[1, 0], [0, 0], [0, 1]], "last": [[0, 1, 0], [1, 0, 0]]}


def test_an_output_whose_only_path_is_cut_is_named(small):
    with torch.no_grad():
        assert any(float(bias) != 0 for bias in small.network()[0].bias)
    report = cut(small, **{"0.weight": ONE_CUT["first"], "2.weight": ONE_CUT["last"]}).collapse(small)
    assert report == Collapse((), (0,))


def test_an_output_without_weights_is_named(small):
    assert cut(small, **{"2.weight": [[1, 1, 1], [0, 0, 0]]}).collapse(small) == Collapse((), (1,))


@pytest.fixture(scope="module")
def deep():
    return problem_of(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


@few
@given(st.integers(0, 9999), st.sampled_from([0.1, 0.25, 0.5, 0.8]))
def test_outputs_reached_are_those_of_the_graph(deep, seed, density):
    mask = Mask(random_bits(deep.shapes, seed, density), deep.shapes)
    reached = np.ones(2, bool)
    for layer in mask.layers.values():
        reached = (layer & reached).any(1)
    report = mask.collapse(deep)
    assert report.unreached_outputs == tuple(np.flatnonzero(~reached))
    assert report.empty_layers == tuple(name for name, layer in mask.layers.items() if layer.sum() == 0)


BETWEEN = [
    nn.BatchNorm1d(3),
    nn.LayerNorm(3),
    nn.GroupNorm(1, 3),
    nn.ReLU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.PReLU(),
    nn.Softplus(),
    nn.Softmax(1),
    nn.LogSigmoid(),
    nn.Dropout(0.9),
    nn.Identity(),
    nn.Sequential(nn.LayerNorm(3), nn.Tanh()),
    nn.BatchNorm1d(3, track_running_stats=False),
]


@pytest.mark.parametrize("layer", BETWEEN, ids=str)
def test_layers_between_pass_on_what_reaches_them(layer):
    problem = problem_of(nn.Linear(2, 3), layer, nn.Linear(3, 2))
    assert not cut(problem).collapse(problem)
    report = cut(problem, **{"0.weight": ONE_CUT["first"], "2.weight": ONE_CUT["last"]}).collapse(problem)
    assert report == Collapse((), (0,))


class Functional(nn.Module):
    """Two layers with functions, not modules, between and behind them."""

    def __init__(self, between, behind):
        super().__init__()
        self.first, self.last, self.between, self.behind = nn.Linear(2, 3), nn.Linear(3, 2), between, behind

    def forward(self, x):
        return self.behind(self.last(self.between(self.first(x))))


@pytest.mark.parametrize(
    ("between", "behind"),
    [
        (F.relu, lambda x: x),
        (F.gelu, lambda x: x),
        (torch.tanh, torch.tanh),
        (F.relu, torch.sigmoid),
        (F.softplus, lambda x: x),
        (torch.relu, lambda x: -x),
        (lambda x: F.relu(-x), lambda x: x),
    ],
    ids=["relu", "gelu", "tanh", "sigmoid", "softplus", "minus", "relu of minus"],
)
def test_functions_pass_on_what_reaches_them(between, behind):
    problem = problem_of(Functional(between, behind))
    assert not cut(problem).collapse(problem)
    report = cut(problem, **{"first.weight": ONE_CUT["first"], "last.weight": ONE_CUT["last"]}).collapse(problem)
    assert report == Collapse((), (0,))


@pytest.mark.parametrize(
    ("between", "behind"),
    [(F.relu, lambda x: F.log_softmax(x, 1)), (lambda x: F.layer_norm(x, (3,)), lambda x: x)],
    ids=["log_softmax", "layer_norm"],
)
def test_functions_that_mix_units_make_no_collapse(between, behind):
    problem = problem_of(Functional(between, behind))
    assert not cut(problem).collapse(problem)
    assert cut(problem, **{"first.weight": [0] * 6}).collapse(problem) == Collapse(("first.weight",), (0, 1))


class Chain(nn.Module):
    """Deep, with functional ReLU: a path of mixed signs would die on the way."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


def test_a_single_path_through_a_deep_network_counts():
    problem = problem_of(Chain())
    straight = {name: [[1, 0], [0, 1]] for name in problem.shapes}
    assert cut(problem, **straight).collapse(problem) == Collapse((), ())
    assert cut(problem, **straight | {"layers.4.weight": [[1, 0], [0, 0]]}).collapse(problem) == Collapse((), (1,))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(x + torch.relu(self.inner(x)))


def test_a_path_round_an_empty_layer_counts():
    problem = problem_of(Residual())
    assert cut(problem, **{"inner.weight": [0] * 4}).collapse(problem) == Collapse(("inner.weight",), ())
    report = cut(problem, **{"inner.weight": [0] * 4, "out.weight": [[0, 0], [0, 1]]}).collapse(problem)
    assert report == Collapse(("inner.weight",), (0,))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)], ids=str)
def test_convolution_pooling_and_flattening(pool):
    images = torch.linspace(-1, 1, 320).reshape(20, 1, 4, 4)
    problem = problem_of(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 2), x=images
    )
    assert not cut(problem).collapse(problem)
    # channel 1 is cut; output 1 sees only its four pixels
    kernels = [np.ones((1, 3, 3)), np.zeros((1, 3, 3))]
    report = cut(problem, **{"0.weight": kernels, "5.weight": [[1] * 8, [0] * 4 + [1] * 4]}).collapse(problem)
    assert report == Collapse((), (1,))


def test_an_excluded_layer_is_dense():
    problem = problem_of(nn.Linear(2, 3), nn.Linear(3, 2), exclude=["1"])
    one = [[0, 0], [0, 1], [0, 0]]
    assert cut(problem, **{"0.weight": one}).collapse(problem) == Collapse((), ())
    assert cut(problem, **{"0.weight": [0] * 6}).collapse(problem) == Collapse(("0.weight",), (0, 1))


def test_outputs_are_counted_flattened():
    problem = problem_of(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)), loss=lambda out, y: out.square().mean())
    assert cut(problem, **{"0.weight": [[1, 1], [1, 1], [0, 0], [0, 1]]}).collapse(problem) == Collapse((), (2,))


def test_indices_as_inputs():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(5, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.table(x).flatten(1))

    problem = problem_of(Embedded(), x=torch.arange(40).reshape(20, 2) % 5, exclude=["table"])
    assert list(problem.shapes) == ["out.weight"]
    assert cut(problem, **{"out.weight": [[1, 0, 0, 0], [0, 0, 0, 0]]}).collapse(problem) == Collapse((), (1,))


def test_the_sign_and_size_of_w0_do_not_matter(small):
    # a path counts even where the weights of W0 on it cancel or vanish
    network = small.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    problem = problem_of(network)
    assert not cut(problem).collapse(problem)


def test_collapse_leaves_the_problem_and_the_mask_alone(small):
    mask = cut(small)
    before, state = mask.hash, copy.deepcopy(small.network().state_dict())
    mask.collapse(small)
    assert mask.hash == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.network().state_dict().items())


def test_a_long_report_is_shortened():
    report = Collapse(("a", "b"), tuple(range(12)))
    assert str(report) == "no survivors in a, b; no path to 12 outputs (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)"


def test_collapse_draws_weights_once_for_a_problem_unless_they_take_much_memory(small, monkeypatch):
    problem = pickle.loads(pickle.dumps(small))
    with monkeypatch.context() as patch:
        patch.setattr(collapse, "MOST_KEPT", 0)
        assert collapse.draws_of(problem) is not collapse.draws_of(problem)
        rare = [str(Mask(bits, problem.shapes).collapse(problem)) for bits in np.eye(12, dtype=bool)]
    assert collapse.draws_of(problem) is collapse.draws_of(problem)
    assert [str(Mask(bits, problem.shapes).collapse(problem)) for bits in np.eye(12, dtype=bool)] == rare


def test_a_network_that_changes_its_inputs_in_place_reports_the_same_each_time():
    network = nn.Sequential(nn.Threshold(0.0, 0.0, inplace=True), nn.Linear(3, 2))
    problem = Problem(network, Data(train=(torch.randn(40, 3), torch.arange(40) % 2)))
    masks = [cut(problem, **{"1.weight": [[1, 1, 0], [0, 0, i]]}) for i in (0, 1, 0, 1)]
    first, second, *again = [mask.collapse(problem) for mask in masks]
    assert (first, second) == (Collapse((), (1,)), Collapse((), ()))
    assert again == [first, second]
