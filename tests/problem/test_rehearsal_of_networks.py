"""Networks that hold or learn what no copy has, and gradients that no seed reaches."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.rehearsing import LABELS, network, problem
from torch import Tensor, nn
from torch.nn import functional as F

from evoprune.errors import InputError


class Holding(nn.Module):
    """Its forward pass goes through what ``make`` makes of it."""

    def __init__(self, make: Callable[["Holding"], object]) -> None:
        super().__init__()
        self.a, self.b, self.held = nn.Linear(6, 6), nn.Linear(6, 2), make(self)

    def forward(self, x: Tensor) -> Tensor:
        held = self.held
        if isinstance(held, dict):
            held = held["f"]
        return held(self.a(x))

    def end(self, x: Tensor) -> Tensor:
        return self.b(x)


HOLDING: dict[str, Callable[[Holding], object]] = {
    "a table": lambda self: {"f": lambda x: self.b(x)},
    "a partial": lambda self: functools.partial(lambda x: self.b(x)),
    "a cache": lambda self: functools.lru_cache(lambda x: self.b(x)),
    "a function of a function": lambda self: (lambda f: lambda x: f(x))(lambda x: self.b(x)),
}


@pytest.mark.parametrize("kind", HOLDING)
def test_whatever_holds_the_module_that_was_copied_is_found(kind: str) -> None:
    with pytest.raises(InputError, match=r"a parameter .* that is not among the network's"):
        problem(LABELS, None, Holding(HOLDING[kind]))


def test_a_loss_with_parameters_is_refused() -> None:
    scale = nn.Parameter(torch.ones(()))
    with pytest.raises(InputError, match="the loss may have parameters"):
        problem(LABELS, lambda outputs, y: scale * F.cross_entropy(outputs, y), network(2))


class Remembering(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(6, 2), how
        if how == "attribute":
            self.mean = torch.zeros(2)
        else:
            self.register_buffer("mean", torch.zeros(2), persistent=how == "persistent")

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        if self.training:
            self.mean = (0.5 * self.mean + 0.5 * z.mean(0)).detach()
        return z - self.mean


@pytest.mark.parametrize("how", ["attribute", "passing", "persistent"])
def test_what_is_learnt_outside_the_state_is_refused(how: str) -> None:
    if how == "persistent":
        assert problem(LABELS, None, Remembering(how)).prunable_count == 12
        return
    with pytest.raises(InputError, match="outside its state_dict"):
        problem(LABELS, None, Remembering(how))


class NoisyBackward(torch.autograd.Function):
    rng = np.random.default_rng(0)

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return gradient * float(NoisyBackward.rng.random())


class Through(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return NoisyBackward.apply(super().forward(x))


class Penalised(nn.Sequential):
    """Takes a gradient in its forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        if self.training:
            z = z + sum(g.square().sum() for g in torch.autograd.grad(z.sum(), list(self.parameters()), create_graph=True))
        return z


def test_gradients_that_no_seed_reaches_are_refused() -> None:
    with pytest.raises(InputError, match="gradients in training mode differ"):
        problem(LABELS, None, Through(nn.Linear(6, 2)))


def test_a_gradient_may_be_taken_in_the_forward_pass() -> None:
    assert problem(LABELS, None, Penalised(nn.Linear(6, 2))).is_classification
