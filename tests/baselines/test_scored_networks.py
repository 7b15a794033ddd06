"""Attention, embeddings and other networks that are scored, and those that cannot be."""

import functools
import math

import numpy as np
import pytest
import torch
from support.baselines import largest
from support.kinds import problem_of
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from evoprune import baselines
from evoprune.baselines import BASELINES
from evoprune.errors import RunError
from evoprune.masks.random import survivors_of
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem

# at sparsities and on networks that are as small as these; tested below
pytestmark = [
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:.*have a score of zero"),
]


# Scores that rank nothing


def data_of(x):
    return Data(train=(x, (x.flatten(1)[:, 0] > 0).long()))


# Buffers, attention, and networks that cannot be scored


class Attention(nn.Module):
    """Four tokens of five numbers, with a causal mask as a buffer of whichever kind."""

    def __init__(self, kind):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.q, self.k, self.v, self.o = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 2)
        causal = torch.triu(torch.ones(4, 4), 1).bool()
        self.kind = kind
        self.register_buffer("steps", torch.arange(4))  # an integer
        self.register_buffer("mask", {
            "bool": ~causal, "inf": torch.zeros(4, 4).masked_fill(causal, -math.inf), "negative": -1e9 * causal.float(),
        }[kind])  # fmt: skip

    def forward(self, x):
        x = x.view(len(x), 4, 5) + self.steps[:, None]
        a = self.q(x) @ self.k(x).transpose(1, 2)
        a = a.masked_fill(~self.mask, -math.inf) if self.kind == "bool" else a + self.mask
        return self.o((a.softmax(-1) @ self.v(x)).mean(1))


class Fused(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.i, self.o = nn.Linear(5, 8), nn.Linear(8, 2)
            self.e = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=dropout)

    def forward(self, x):
        return self.o(self.e(self.i(x.view(len(x), 4, 5))).mean(1))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.i, self.o = nn.Linear(5, 24), nn.Linear(8, 2)

    def forward(self, x):
        q, k, v = self.i(x.view(len(x), 4, 5)).view(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2).mean(1))


ATTENTION = {
    **{f"{kind} buffer": functools.partial(Attention, kind) for kind in ("bool", "inf", "negative")},
    "transformer": Fused,
    "transformer with dropout": functools.partial(Fused, 0.2),
    "scaled dot product": Scaled,
}


@pytest.mark.sampled(7)
@pytest.mark.filterwarnings("ignore::evoprune.errors.UnprunableWarning")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("saliency", ["snip", "grasp", "synflow"])
def test_attention_is_scored(kind, saliency, dtype):
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    problem = Problem(ATTENTION[kind](), data_of(x), dtype=dtype)
    mask = BASELINES[saliency].prune(problem, sparsity=0.8, seed=0)
    assert mask.survivors == survivors_of(0.8, problem.prunable_count)
    assert BASELINES[saliency].prune(problem, sparsity=0.8, seed=0) == mask


def test_synflow_leaves_buffers_as_they_are():
    """The masked weights' absolute values under the mask as it is, by hand."""
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    problem = Problem(Attention("inf"), data_of(x), dtype="float64")
    network = problem.network().eval()
    for parameter in network.parameters():
        parameter.data.abs_()
    assert network.mask.min() == -math.inf
    network(torch.ones(1, 20, dtype=torch.float64)).sum().backward()
    scores = torch.cat([(w.detach() * w.grad).flatten() for w in map(network.get_parameter, problem.shapes)])
    mask = baselines.synflow(problem, sparsity=0.5, iterations=1)
    assert np.array_equal(mask.bits, largest(scores, mask.survivors))


def test_synflow_sends_a_one_through_every_row_of_an_embedding():
    """An embedding is a linear layer on one-hot words, so an input of ones gives each position the sum of the rows."""
    problem = problem_of("embedding")
    network = problem.network()
    table, hidden, last = (network.get_parameter(name).detach().abs() for name in problem.shapes)
    for parameter in network.parameters():
        parameter.data.abs_()
    inside = table.sum(0) @ hidden.T + network.hidden.bias.detach()
    flow = last.sum(0) @ hidden  # of all outputs, into each of the embedding's columns
    expected = torch.cat([
        (table * flow).flatten(), (hidden * table.sum(0) * last.sum(0)[:, None]).flatten(), (last * inside).flatten()
    ])  # fmt: skip
    mask = baselines.synflow(problem, sparsity=0.5, iterations=1)
    assert np.array_equal(mask.bits, largest(expected, mask.survivors))
    assert mask.layers["table.weight"].any(1).sum() > 1


def test_synflow_brings_nothing_back_where_scores_are_negative():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            return 100 * (self.a(x) - 3 * self.b(x))

    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    problem = Problem(Difference(), Data(train=(x, torch.arange(100) % 5)))
    few = baselines.synflow(problem, sparsity=0.8, iterations=20)
    many = baselines.synflow(problem, sparsity=0.2, iterations=20)
    assert few.survivors == 12
    assert not (few.bits & ~many.bits).any()
    assert not few.layers["b.weight"].any()


class Odd(nn.Module):
    """Serves training, and not what a baseline does."""

    def __init__(self, kind):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layer = nn.Linear(20, 2)
        self.kind = kind
        self.scale = torch.ones(20)  # no buffer, which stays of its type

    def forward(self, x):
        if self.kind == "once differentiable":
            q = self.layer(x)[:, None, None]
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, q, q).flatten(1)
        if self.kind == "one type":
            return self.layer(torch.mv(x, self.scale)[:, None] + x)
        if len(x) == 1 and bool((x == 1).all()):
            raise ValueError("inputs of ones")
        return self.layer(x)


@pytest.mark.parametrize(
    ("kind", "saliency", "cause"),
    [
        ("once differentiable", "grasp", "(NotImplemented|Runtime)Error: .*derivative for aten::.*flash_attention"),
        ("one type", "synflow", "RuntimeError: .*dtype"),
        ("ones", "synflow", "ValueError: inputs of ones"),
    ],
)
def test_a_network_that_cannot_be_scored_is_named_with_the_cause(kind, saliency, cause):
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    problem = Problem(Odd(kind), data_of(x))
    with pytest.raises(RunError, match=f"{saliency} cannot score this network: {cause}"):
        BASELINES[saliency].prune(problem, sparsity=0.5)
