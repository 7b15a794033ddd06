"""The recipe: schedules of the learning rate against torch's, and options that leave earlier records as they were."""

import functools
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.cli.experiment import folder_name
from evoprune.comparison.options import CompareOptions, defaults_of, plan
from evoprune.errors import InputError
from evoprune.options import later_of
from evoprune.problem.learning_rates import LEARNING_RATES
from evoprune.problem.optimizers import without_compiler
from evoprune.problem.options import ProblemOptions
from evoprune.search.execution import Execution

# Of the versions before the fields that are marked as later.
HASH = "eb2f058125cf36e3f7b67ce0dca9472ff0a01e722b96f52f82269e52ba6a1495"
RECORD = {
    "epochs": 15, "batch_size": 64, "optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0005,
    "schedule": "cosine", "options": {},
}  # fmt: skip


def small(**options: Any) -> ep.Problem:
    return ep.Problem("mlp", "digits", ep.Recipe(**options), widths=(12,), seed=0)


def rates(recipe: ep.Recipe, steps_per_epoch: int) -> list[float]:
    return [recipe.learning_rate(step, steps_per_epoch) for step in range(steps_per_epoch * recipe.epochs)]


def torch_rates(make: Callable[[torch.optim.Optimizer], Any], lr: float, steps: int) -> list[float]:
    """Returns the learning rate of each step under one of torch's schedulers."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    optimizer = without_compiler("SGD")([weight], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore:To get the last learning rate")
@pytest.mark.parametrize(("milestones", "epochs"), [((3, 5), 8), ((0.5, 0.75), 8), ((0.25, 4), 10)])
def test_milestones_are_those_of_torch(milestones: tuple[float, ...], epochs: int) -> None:
    recipe = ep.Recipe(epochs=epochs, lr=0.3, schedule="milestones", milestones=milestones, gamma=0.2)
    at = [round(m * epochs * 4 if m < 1 else m * 4) for m in milestones]
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, at, 0.2), 0.3, 4 * epochs)
    assert rates(recipe, 4) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (1, 3), (3, 7), (10, 5)])
def test_one_cycle_is_that_of_torch(epochs: int, steps: int) -> None:
    total = epochs * steps
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total, cycle_momentum=False), 0.4, total
    )
    found = rates(ep.Recipe(epochs=epochs, lr=0.4, schedule="one-cycle"), steps)
    assert found == pytest.approx(expected, rel=1e-9)


def test_one_step_of_one_cycle() -> None:
    assert rates(ep.Recipe(epochs=1, schedule="one-cycle"), 1) == [pytest.approx(0.05 / 25 / 1e4)]


@pytest.mark.parametrize("warmup", [1.5, 2])
def test_cosine_after_a_warm_up_by_its_formula(warmup: float) -> None:
    found = rates(ep.Recipe(epochs=6, lr=0.2, warmup=warmup), 4)
    first = round(4 * warmup)
    rest = 24 - first
    assert found[:first] == pytest.approx([0.2 * (i + 1) / (first + 1) for i in range(first)])
    assert found[first:] == pytest.approx([0.1 * (1 + math.cos(math.pi * i / rest)) for i in range(rest)])
    assert 0 < found[0] < found[1]


def test_milestones_are_counted_from_the_start_of_the_warm_up() -> None:
    recipe = ep.Recipe(epochs=4, lr=1.0, schedule="milestones", milestones=(2,), warmup=1)
    assert rates(recipe, 3) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, *[0.1] * 6])


def test_a_schedule_of_the_users_own_is_a_function_of_progress() -> None:
    recipe = ep.Recipe(epochs=2, lr=0.5, schedule=lambda progress: (1 - progress) ** 2)
    assert rates(recipe, 2) == pytest.approx([0.5, 0.5 * 0.75**2, 0.125, 0.5 * 0.25**2])
    later = replace(recipe, warmup=1)
    assert rates(later, 2) == pytest.approx([0.5 / 3, 1 / 3, 0.5, 0.125])


class Doubled(torch.optim.Optimizer):
    """Gradient descent with steps of twice the learning rate."""

    def __init__(self, params: Any, lr: float, factor: float = 2.0) -> None:
        super().__init__(params, {"lr": lr, "factor": factor})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.sub_(weight.grad, alpha=group["factor"] * group["lr"])


class Counted(Doubled):
    """Its memory is where no snapshot looks."""

    def step(self, closure: Any = None) -> None:
        super().step()
        self.param_groups[0]["factor"] += 1


def test_an_optimizer_of_the_users_own_counts_by_its_code_and_travels() -> None:
    problem = small(optimizer=Doubled, weight_decay=0.0)
    assert problem.config()["recipe"]["optimizer"] == "own.Doubled"
    assert small(optimizer=Doubled, weight_decay=0.0).hash == problem.hash
    others = [
        small(optimizer=Doubled, weight_decay=0.0, options={"factor": 3.0}),
        small(weight_decay=0.0),
        small(optimizer=lambda params, lr: Doubled(params, 2 * lr), weight_decay=0.0),
    ]
    assert len({problem.hash, *(other.hash for other in others)}) == 4
    twin = pickle.loads(cloudpickle.dumps(problem))
    assert twin.hash == problem.hash
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    twin.recipe.make_optimizer([weight]).step()
    assert weight.tolist() == pytest.approx([0.9, 0.9])


def test_a_torch_optimizer_as_a_class_is_its_name() -> None:
    assert ep.Recipe(optimizer=torch.optim.AdamW) == ep.Recipe(optimizer="AdamW")
    assert ep.Recipe(optimizer=functools.partial(torch.optim.SGD, nesterov=True)).momentum == 0.9


def test_an_optimizer_whose_memory_no_snapshot_keeps_is_refused() -> None:
    with pytest.raises(InputError, match=r"a step of the optimizer changes factor in its param_groups"):
        small(optimizer=Counted, weight_decay=0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"warmup": 15}, "warmup is 15; expected .* below the recipe's 15"),
        ({"warmup": -1}, "warmup is -1"),
        ({"warmup": 1, "schedule": "one-cycle"}, "one-cycle has its own"),
        ({"milestones": (0.75, 0.5), "schedule": "milestones"}, "milestones are .*rising"),
        ({"milestones": (), "schedule": "milestones"}, "milestones are .*rising"),
        ({"milestones": (0.0, 0.5), "schedule": "milestones"}, "milestones are .*rising"),
        ({"milestones": (0.5, "1"), "schedule": "milestones"}, "milestones are .*rising"),
        ({"gamma": 0, "schedule": "milestones"}, "gamma is 0"),
        ({"gamma": 2, "schedule": "milestones"}, "gamma is 2"),
        ({"gamma": 0.2}, "gamma is 0.2, but the schedule is cosine"),
        ({"milestones": (3, 5)}, r"milestones is \(3.0, 5.0\), but the schedule is cosine"),
        ({"nesterov": True, "optimizer": "Adam"}, "torch.optim.Adam refuses .*nesterov"),
        ({"nesterov": True, "momentum": 0.0}, "torch.optim.SGD refuses .*Nesterov"),
        ({"schedule": lambda progress: "fast"}, "the schedule .* fails at a progress of 0.0: ValueError"),
        ({"schedule": lambda progress: 0.5 - progress}, "returns -0.01.* at a progress of 0.51; expected a function"),
        ({"schedule": lambda progress: math.nan}, "returns nan"),
        ({"decay": "biases"}, "unknown decay 'biases'"),
        ({"clip_norm": 0}, "clip_norm is 0; expected a number above 0"),
        ({"clip_value": math.nan}, "clip_value is nan"),
        ({"clip_norm": 1, "clip_value": 1}, "clip_norm is 1.0 and clip_value 1.0; expected one of them"),
        ({"optimizer": torch.optim.LBFGS}, "the optimizer is LBFGS; expected a class"),
        ({"optimizer": lambda params: None}, "the optimizer is .*; expected a class .* the keyword lr"),
        ({"optimizer": lambda params, lr: params, "weight_decay": 0.0}, "makes list; expected a torch.optim.Optimizer"),
        ({"optimizer": Doubled}, r"own\.Doubled refuses .*weight_decay"),
        ({"schedule": 3}, "the schedule of the learning rate is int; expected a function"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ep.Recipe(**options)


def test_nesterov_is_that_of_torch() -> None:
    group = ep.Recipe(nesterov=True).make_optimizer([nn.Parameter(torch.zeros(2))]).param_groups[0]
    assert (group["nesterov"], group["momentum"]) == (True, 0.9)


# Records and identity


def test_a_problem_without_new_options_keeps_its_record_and_its_hash() -> None:
    problem = small()
    assert problem.hash == HASH
    assert list(problem.config()["recipe"].items()) == list(RECORD.items())
    later = {*later_of(ep.Recipe), *later_of(ProblemOptions)} - {"loss"}  # which the data decide, and which is recorded
    assert not later & {*problem.config(), *problem.config()["recipe"]}
    assert problem.config()["loss"] == "cross-entropy"


def test_the_names_of_folders_and_comparisons_leave_out_new_options_with_their_defaults() -> None:
    recipe, problem = defaults_of(ep.Recipe), defaults_of(ProblemOptions)
    later = later_of(ep.Recipe) | later_of(ProblemOptions)
    before = {name: value for name, value in (recipe | problem).items() if name not in later and name != "options"}
    assert folder_name("snip", recipe | problem | {"options": before.get("options")}, Execution) == folder_name(
        "snip", before | {"options": before.get("options")}, Execution
    )
    comparison, _ = plan(CompareOptions(), problem, recipe)
    assert not set(later) & {*comparison.recipe, *comparison.problem}
    changed, _ = plan(CompareOptions(), problem, {**recipe, "warmup": 2.0})
    assert changed.recipe == {**comparison.recipe, "warmup": 2.0}


CHANGES: dict[str, dict[str, Any]] = {
    "warm-up": {"warmup": 1},
    "milestones": {"schedule": "milestones"},
    "other milestones": {"schedule": "milestones", "milestones": (0.5,)},
    "factor": {"schedule": "milestones", "gamma": 0.2},
    "nesterov": {"nesterov": True},
    "decay": {"decay": "weights"},
    "norm": {"clip_norm": 1},
    "value": {"clip_value": 1},
    "precision": {"precision": "bf16"},
}


def test_new_options_count_in_the_hash_and_round_trip() -> None:
    plain = small()
    recipes = [plain.recipe, *(ep.Recipe(**change) for change in CHANGES.values())]
    assert len({plain.with_recipe(recipe).hash for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        assert ep.Recipe(**json.loads(json.dumps(recipe.recorded()))) == recipe
    problem = small(**CHANGES["other milestones"])
    twin = ep.Problem.from_config(json.loads(json.dumps(problem.config())))
    assert (twin.recipe, twin.hash) == (problem.recipe, problem.hash)
    assert pickle.loads(pickle.dumps(problem)).recipe == problem.recipe


def test_numbers_of_either_type_are_one_recipe() -> None:
    assert small(warmup=1).hash == small(warmup=1.0).hash
    assert ep.Recipe(schedule="milestones", milestones=[3, 5]) == ep.Recipe(schedule="milestones", milestones=(3.0, 5.0))


def falling(power: float) -> Callable[[float], float]:
    return lambda progress: (1 - progress) ** power


def test_a_schedule_of_the_users_own_counts_by_its_code_and_travels() -> None:
    problem = small(schedule=falling(2))
    assert problem.hash == small(schedule=falling(2)).hash
    assert len({problem.hash, small(schedule=falling(3)).hash, small(schedule="linear").hash}) == 3
    assert problem.config()["recipe"]["schedule"] == "own.falling.<locals>.<lambda>"
    twin = pickle.loads(cloudpickle.dumps(problem))
    assert twin.hash == problem.hash
    assert rates(twin.recipe, 3) == rates(problem.recipe, 3)
    assert rates(replace(twin.recipe, weight_decay=0.0), 3) == rates(problem.recipe, 3)
    assert ep.Problem.from_config(problem.config(), recipe=problem.recipe).hash == problem.hash
    with pytest.raises(InputError, match=r"unknown schedule 'own\.falling"):
        ep.Problem.from_config(problem.config())


def test_a_registered_schedule_keeps_its_name_where_nobody_registered_it() -> None:
    ep.register.learning_rate("falling", falling(2))
    try:
        problem = small(schedule="falling")
        content = cloudpickle.dumps(problem)
    finally:
        LEARNING_RATES.forget("falling")
    assert problem.config()["recipe"]["schedule"] == "falling"
    assert problem.hash == small(schedule=falling(2)).hash
    twin = pickle.loads(content)
    assert twin.config() == problem.config()
    assert twin.hash == problem.hash
    assert replace(twin.recipe, epochs=3).learning_rate(0, 4) == 0.05


def test_a_comparison_takes_names() -> None:
    with pytest.raises(InputError, match=r"schedule is falling.*a comparison takes names: register it, ep.register.learning"):
        ep.compare(methods=("erk",), schedule=falling(2))


def test_another_recipe_has_to_suit_the_problem() -> None:
    problem = ep.Problem("mlp", "digits", widths=(4,), dtype="float64")
    with pytest.raises(InputError, match="precision is 'bf16' and dtype 'float64'"):
        problem.with_recipe(ep.Recipe(precision="bf16"))
    with pytest.raises(InputError, match="unknown stop_by 'validation_nope'"):
        problem.with_recipe(ep.Recipe(stop_patience=2, stop_by="validation_nope"))


def test_milestones_after_the_last_epoch_are_said_where_they_are_given(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(UserWarning, match="the milestones 80, 120 are never reached in 80 epochs.*Give others, or more epochs"):
        ep.Recipe(epochs=80, schedule="milestones", milestones=(79.5, 80, 120))
    for epochs, milestones in ((1, (0.5, 0.75)), (81, (0.5, 80)), (80, (79.5,))):
        ep.Recipe(epochs=epochs, schedule="milestones", milestones=milestones)
    assert not recwarn.list


def test_milestones_that_are_never_reached_are_said() -> None:
    with pytest.warns(UserWarning, match="the milestones 5, 10 are never reached in 2 epochs"):
        ep.Problem("mlp", "digits", ep.Recipe(epochs=2, schedule="milestones", milestones=(1, 5, 10)), widths=(4,))
