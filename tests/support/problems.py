"""Problems of a network and tensors of one's own."""

import pickle

import torch
from torch import nn
from torch.nn import functional as F

from evoprune.problem.data import Data
from evoprune.problem.problem import Problem

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


def halved(outputs, targets):
    return F.cross_entropy(outputs, targets) / 2
