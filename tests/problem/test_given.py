"""Weights that were trained elsewhere, or that a function returns, as W0."""

import json

import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune import seeds
from evoprune.problem.models import MODELS, build

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


@pytest.fixture(scope="module")
def pretrained():
    """A network that has learnt something elsewhere."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(X), Y).backward()
        optimizer.step()
    return network


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def problem_of(model, **options):
    return ep.Problem(model, ep.Data(train=(X, Y)), ep.Recipe(epochs=1), **options)


@pytest.mark.parametrize("options", [{}, {"initialization": "given"}, {"seed": 5}])
def test_w0_of_a_pretrained_module_is_its_weights_and_statistics(pretrained, options):
    problem = problem_of(pretrained, **options)
    assert same(problem.network().state_dict(), pretrained.state_dict())
    assert pretrained[1].running_mean.any()
    assert problem.config()["initialization"] == "given"


def test_the_record_of_a_run_says_that_w0_was_given(pretrained, tmp_path):
    problem = problem_of(pretrained)
    ep.k_starts(problem, k=2, sparsity=0.5, fitness_epochs=1, engine="module", controls=False, out=tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["problem"]
    assert recorded["initialization"] == "given"
    assert recorded["model"] == "torch.nn.modules.container.Sequential"


def test_survivors_start_from_the_pretrained_weights(pretrained):
    problem = problem_of(pretrained)
    expected = torch.cat([pretrained[i].weight.detach().flatten() for i in (0, 3)])
    assert torch.equal(torch.from_numpy(problem.w0), expected)


def test_a_function_with_given_weights_keeps_those_that_it_returned(pretrained):
    def loaded():
        network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        network.load_state_dict(pretrained.state_dict())
        return network

    for options in ({}, {"initialization": "given"}, {"initialization": "given", "seed": 7}):
        problem = problem_of(loaded, **options)
        assert same(problem.network().state_dict(), pretrained.state_dict())
        assert problem.config()["initialization"] == "given"
    assert not same(problem_of(loaded, initialization="kaiming").network().state_dict(), pretrained.state_dict())


def test_a_registered_name_with_given_weights_keeps_those_that_its_function_returned():
    def constant(input_shape, classes):
        network = nn.Sequential(nn.Linear(input_shape[0], 4), nn.ReLU(), nn.Linear(4, classes))
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.25)
        return network

    ep.register.model("constant", constant)
    try:
        problem = problem_of("constant", initialization="given")
    finally:
        MODELS.forget("constant")
    assert (problem.w0 == 0.25).all()
    assert problem.config()["initialization"] == "given"


def test_a_built_in_name_with_given_weights_keeps_those_that_its_layers_drew():
    problem = problem_of("mlp", widths=(5,), seed=3, initialization="given")
    with seeds.seeded(seeds.integer(3, "weights")):
        expected = build("mlp", (6,), 3, (5,))
    assert same(problem.network().state_dict(), expected.state_dict())
    assert problem.config()["initialization"] == "given"
