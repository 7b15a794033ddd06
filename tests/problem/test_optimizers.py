"""Recipes: schedules and optimisers."""

import math

import pytest
import torch
from support.problems import own, step
from torch import nn

from evoprune.errors import InputError
from evoprune.problem.learning_rates import LEARNING_RATES
from evoprune.problem.optimizers import optimizers, without_compiler
from evoprune.problem.recipe import Recipe

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
