"""The recipe's steps on every engine: clipping, groups of parameters, and optimisers of the user's own."""

from typing import Any

import numpy as np
import pytest
import torch
from support.engines import full_masks, group, trained
from support.networks import problem_of
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.check import require
from evoprune.engines.move import move
from evoprune.engines.registry import ENGINES
from evoprune.engines.snapshot import Begun, begin, take_snapshots
from evoprune.errors import InputError
from evoprune.seeds import batch_order
from evoprune.training.loop import train


class Lion(torch.optim.Optimizer):
    """Steps of one size by the sign of a mean (Chen et al. 2023), without its second beta."""

    def __init__(self, params: Any, lr: float = 1e-3, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for each in self.param_groups:
            for weight in each["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - each["beta"])
                weight.mul_(1 - each["lr"] * each["weight_decay"]).add_(mean.sign(), alpha=-each["lr"])


class Normed(Lion):
    """Steps along the gradient's direction: a weight's depends on all others in its tensor."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for each in self.param_groups:
            for weight in each["params"]:
                weight.sub_(weight.grad / weight.grad.norm(), alpha=each["lr"])


RECIPES: dict[str, dict[str, Any]] = {
    "norm": {"clip_norm": 0.05},
    "norm, half of the time": {"clip_norm": 0.5, "momentum": 0.5},
    "value": {"clip_value": 0.01},
    "weights decay": {"decay": "weights", "weight_decay": 0.3},
    "all decay": {"weight_decay": 0.3},
    "weights decay, AdamW": {"decay": "weights", "weight_decay": 0.3, "optimizer": "AdamW", "clip_norm": 0.2},
    "together": {"decay": "weights", "weight_decay": 0.3, "clip_norm": 0.2, "nesterov": True, "warmup": 0.5},
    "own": {"optimizer": Lion, "weight_decay": 0.1, "lr": 0.01, "clip_value": 0.01},
}


def plain_optimizer(recipe: ep.Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    weights = [p for p in parameters if p.ndim > 1 or recipe.decay == "all"]
    others = [p for p in parameters if p.ndim == 1 and recipe.decay == "weights"]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "AdamW":
        return torch.optim.AdamW(groups, lr=1.0)
    if recipe.optimizer == "SGD":
        return torch.optim.SGD(groups, lr=1.0, momentum=recipe.momentum or 0.0, nesterov=recipe.nesterov)
    return Lion(groups)


def plain_loop(problem: ep.Problem, mask: ep.Mask, epochs: int, seed: int) -> nn.Module:
    """Trains a masked network as one writes it in torch."""
    recipe, network = problem.recipe, problem.network().train()
    parameters = dict(network.named_parameters())
    removed = {name: ~torch.from_numpy(layer) for name, layer in mask.layers.items()}
    optimizer = plain_optimizer(recipe, list(parameters.values()))
    x, y = problem.part("train")
    steps = -(-len(x) // recipe.batch_size)
    batches = [
        (e, i, r) for e in range(epochs) for i, r in enumerate(batch_order(len(x), recipe.batch_size, seed, e, x.device))
    ]
    for name, gone in removed.items():
        parameters[name].data[gone] = 0
    for epoch, i, rows in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(x[rows]), y[rows]).backward()
        for name, gone in removed.items():
            parameters[name].grad[gone] = 0
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        if recipe.clip_value is not None:
            torch.nn.utils.clip_grad_value_(network.parameters(), recipe.clip_value)
        for each in optimizer.param_groups:
            each["lr"] = recipe.learning_rate(epoch * steps + i, steps)
        optimizer.step()
        for name, gone in removed.items():
            parameters[name].data[gone] = 0
    return network


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", RECIPES)
def test_an_engine_trains_as_a_plain_loop_does(name: str, engine: str) -> None:
    problem = problem_of("norm first", epochs=2, **{"lr": 0.1, **RECIPES[name]})
    masks = full_masks(problem, 3)
    require(engine, problem)
    _, states = trained(problem, engine, masks, epochs=2)
    for mask, state in zip(masks, states, strict=True):
        expected = plain_loop(problem, mask, epochs=2, seed=3).state_dict()
        for key, tensor in expected.items():
            torch.testing.assert_close(state[key], tensor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["together", "weights decay, AdamW", "own"])
def test_a_training_that_moves_between_engines_and_through_a_snapshot_is_one_training(name: str) -> None:
    problem = problem_of("norm first", epochs=3, **{"lr": 0.1, **RECIPES[name]})
    masks = full_masks(problem, 1)
    done = train(ENGINES["stacked"].build(problem, masks), problem, 1, seed=3)
    population, optimizer = move(done.population, done.optimizer, problem, "sparse")
    done = train(Begun(population, 1, optimizer), problem, 1, seed=3)
    snapshots = take_snapshots(done.population, done.optimizer, 2, [[]])
    done = train(begin(ENGINES["module"], problem, masks, snapshots), problem, 1, seed=3)
    expected = plain_loop(problem, masks[0], epochs=3, seed=3).state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(done.population.state(0)[key], tensor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["norm", "value", "weights decay"])
def test_each_option_trains_differently(name: str) -> None:
    plain = problem_of("norm first", lr=0.1, weight_decay=RECIPES[name].get("weight_decay", 5e-4))
    masks = full_masks(plain, 1)
    changed = plain.with_recipe(ep.Recipe(**{**plain.recipe.recorded(), **RECIPES[name]}))
    states = [trained(problem, "module", masks)[1][0] for problem in (plain, changed)]
    assert not torch.allclose(states[0]["1.weight"], states[1]["1.weight"], atol=1e-5)


def test_the_sum_of_gradients_is_of_those_before_the_clipping() -> None:
    problem = problem_of("sequential", lr=1e-9, weight_decay=0.0)  # the same gradients, since the weights stay
    masks = full_masks(problem, 2)
    clipped = problem.with_recipe(ep.Recipe(**{**problem.recipe.recorded(), "clip_norm": 1e-3}))
    for engine in ENGINES:
        sums = [
            [g.numpy() for g in train(ENGINES[engine].build(each, group(engine, masks)), each, 1, seed=0).gradients]
            for each in (problem, clipped)
        ]
        for one, other in zip(*sums, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


def test_an_engine_that_tells_only_whose_part_is_whose_clips_alike() -> None:
    problem = problem_of("sequential", clip_norm=0.1)
    population = ENGINES["stacked"].build(problem, full_masks(problem, 3))

    class Plain(type(population)):  # type: ignore[misc]
        individual_first = None

    plain = Plain(problem, full_masks(problem, 3))
    for each in (population, plain):
        train(each, problem, 1, seed=0)
    for one, other in zip(population.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# Refusals


def test_an_optimizer_that_looks_at_several_weights_is_for_module_alone() -> None:
    problem = problem_of("sequential", optimizer=Normed, lr=0.01, weight_decay=0.0)
    for engine in ("stacked", "sparse"):
        with pytest.raises(
            InputError, match=f"the engine '{engine}' trains all individuals in one vector.* own[.]Normed does not"
        ):
            require(engine, problem)
    assert auto.choose(problem, 0.9, 2) == "module"


def test_the_sparse_engine_refuses_a_decay_of_weights_that_its_kernels_cannot_give() -> None:
    for options in ({"optimizer": "RMSprop"}, {"optimizer": Lion}):
        problem = problem_of("sequential", decay="weights", **options)
        with pytest.raises(InputError, match=r"keeps weights and biases in one tensor.*engine 'module' or 'stacked'"):
            require("sparse", problem)
        assert auto.choose(problem, 0.9, 2) != "sparse"
        require("stacked", problem)


def test_a_class_with_the_name_of_a_torch_optimizer_is_not_taken_for_it() -> None:
    class SGD(Lion):
        pass

    class Halved(torch.optim.SGD):
        def step(self, closure: Any = None) -> Tensor | None:
            for each in self.param_groups:
                each["lr"] /= 2
            return super().step(closure)  # type: ignore[no-any-return]

    masks = full_masks(problem_of("sequential"), 2)
    for kind in (SGD, Halved):
        problem = problem_of("sequential", optimizer=kind, lr=0.01, weight_decay=0.0)
        states = {engine: trained(problem, engine, masks)[1] for engine in ("module", "sparse")}
        for one, other in zip(*states.values(), strict=True):
            for name, tensor in one.items():
                torch.testing.assert_close(other[name], tensor, rtol=1e-7, atol=1e-9)
