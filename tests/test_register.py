"""Registries, and the registration of a user's own things."""

import pickle

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune import operators
from evoprune.baselines.registry import BASELINES
from evoprune.errors import InputError
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import MUTATIONS
from evoprune.problem.load import DATA, load
from evoprune.problem.models import MODELS
from evoprune.registry import Registry, describe


def random_of(problem, sparsity, seed):
    return ep.random_mask(problem.shapes, sparsity, np.random.default_rng(seed))


@pytest.fixture
def registry():
    return Registry("sound", {"low": 1, "high": 2})


def test_a_registry_is_a_mapping_of_built_in_and_own_things(registry):
    registry.register("mine", 3)
    assert dict(registry) == {"low": 1, "high": 2, "mine": 3}
    assert registry.own == {"mine": 3}
    registry.forget("mine")
    assert "mine" not in registry
    assert len(registry) == 2


def test_a_name_or_the_thing_itself_is_found(registry):
    assert registry.find("low") == 1
    assert registry.find(7) == 7
    with pytest.raises(InputError, match=r"unknown sound 'hihg'; expected one of: high, low. Did you mean 'high'\?"):
        registry.find("hihg")


def test_a_family_makes_entries_of_the_names_behind_its_colon():
    registry = Registry("thing", {"plain": 1}, families={"length": len})
    assert registry.find("length:four") == 4 and registry.find("length:a:b") == 3 and registry.find("plain") == 1
    assert list(registry) == ["plain"]
    with pytest.raises(InputError, match="unknown thing 'lenth:four'; expected one of: length:NAME, plain"):
        registry.find("lenth:four")


@pytest.mark.parametrize("name", ["", " ", "a\nb", None, 3])
def test_a_name_that_cannot_be_shown_is_refused(registry, name):
    with pytest.raises(InputError, match="expected a printable name"):
        registry.register(name, 3)


def test_built_in_names_and_names_of_other_things_are_refused(registry):
    with pytest.raises(InputError, match="sound 'low' is built in"):
        registry.register("low", 3)
    registry.register("mine", 3)
    registry.register("mine", 3)
    with pytest.raises(InputError, match="sound 'mine' is registered already"):
        registry.register("mine", 4)


def test_a_definition_that_runs_again_replaces_itself(registry):
    def define():
        def sound(): ...

        return sound

    first, second = define(), define()
    registry.register("mine", first)
    registry.register("mine", second)
    assert registry["mine"] is second
    with pytest.raises(InputError, match="registered already"):
        registry.register("mine", describe)


def test_things_have_a_name_for_records(registry):
    registry.register("mine", describe)
    assert registry.name_of("low") == "low"
    assert registry.name_of(describe) == "mine"
    assert registry.name_of(registry.find) == "own.Registry.find"
    assert registry.name_of(object()) == "own.object"


def test_what_is_given_becomes_an_entry():
    registry = Registry("number", {"one": 1}, adapt=int)
    assert registry.register("two", "2") == "2"
    assert registry["two"] == 2
    assert registry.find(3.0) == 3
    assert registry.name_of("two") == "two"


@pytest.mark.parametrize(("kind", "registry"), [("mutation", MUTATIONS), ("crossover", CROSSOVERS), ("baseline", BASELINES)])
def test_register_takes_a_thing_or_decorates_it(kind, registry):
    register = getattr(ep.register, kind)

    def function(*arguments, **options):
        return operators.swap(*arguments, **options)

    try:
        assert register("decorated")(function) is function
        assert register("called", function) is function
        assert {"decorated", "called"} <= set(registry)
        assert registry.name_of(function) == "decorated"
        assert set(registry.own) == {"decorated", "called"}
    finally:
        registry.forget("decorated")
        registry.forget("called")
    assert not registry.own


def test_register_has_the_help_of_its_kinds():
    assert "decorator" in ep.register.__doc__
    assert "returns a mask" in ep.register.baseline.__doc__


@pytest.fixture
def own_baseline():
    yield ep.register.baseline("mine", lambda problem, *, sparsity, seed: random_of(problem, sparsity, seed))
    BASELINES.forget("mine")


def test_a_baseline_of_the_users_is_taken_by_name_or_itself(own_baseline):
    problem = ep.Problem(model="mlp", widths=(8,), recipe=ep.Recipe(epochs=1))
    named = BASELINES.find("mine").prune(problem, sparsity=0.5, seed=3)
    given = BASELINES.find(own_baseline).prune(problem, sparsity=0.5, seed=3)
    assert named == given == random_of(problem, 0.5, 3)
    assert BASELINES["mine"].search_cost(problem, 0.5, 1) == 0


def test_a_baseline_that_returns_no_mask_of_the_network_is_refused():
    problem = ep.Problem(model="mlp", widths=(8,), recipe=ep.Recipe(epochs=1))
    with pytest.raises(InputError, match="returned NoneType; expected an ep"):
        BASELINES.find(lambda problem, *, sparsity, seed: None).prune(problem, sparsity=0.5)
    other = ep.Problem(model="mlp", widths=(9,), recipe=ep.Recipe(epochs=1))
    with pytest.raises(InputError):
        BASELINES.find(lambda problem, *, sparsity, seed: random_of(other, 0.5, 0)).prune(problem, sparsity=0.5)
    with pytest.raises(InputError, match="expected a name, or a function"):
        BASELINES.find(3)


X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


def small(input_shape, classes, *, widths=(4,), gain=1.0):
    return nn.Sequential(nn.Linear(input_shape[0], widths[0]), nn.ReLU(), nn.Linear(widths[0], classes))


@pytest.fixture
def own_names():
    ep.register.model("mine", small)
    ep.register.data("mine", lambda: ep.Data(train=(X, Y)))
    yield
    MODELS.forget("mine")
    DATA.forget("mine")


def test_a_model_and_data_of_the_users_are_taken_by_name(own_names):
    problem = ep.Problem("mine", "mine")
    assert {name: tuple(shape) for name, shape in problem.shapes.items()} == {"0.weight": (4, 3), "2.weight": (2, 4)}
    assert {name: problem.config()[name] for name in ("model", "data", "widths")} == {
        "model": "mine", "data": "mine", "widths": None,
    }  # fmt: skip
    given = ep.Problem(small, ep.Data(train=(X, Y)))
    assert problem == given  # the same network from the same seed
    assert problem.options.initialization == "given"
    assert ep.Problem(small, lambda: ep.Data(train=(X, Y))) == given
    assert problem != ep.Problem("mine", "mine", seed=1)
    assert ep.Problem("mine", "mine", widths=(6,)).prunable_count == 6 * 5
    assert ep.Problem.from_config(problem.config()) == problem
    assert [len(y) for _, y in load("mine").parts().values()] == [28, 4, 8]


def test_a_problem_of_own_names_travels_without_the_registries(own_names):
    problem = ep.Problem("mine", "mine")
    content = cloudpickle.dumps(problem)
    MODELS.forget("mine")
    DATA.forget("mine")
    there = pickle.loads(content)
    assert there == problem
    assert there.config() == problem.config()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": lambda: nn.Linear(3, 2), "widths": (3,)}, "widths are .*; they go with a model that takes widths"),
        ({"model": small, "widths": (0,)}, "expected positive integers"),
        ({"model": lambda classes: classes}, "model made int; expected a torch.nn.Module"),
        ({"data": lambda: 3}, "is int; expected ep.Data"),
        ({"data": lambda: 1 / 0}, "cannot be made: ZeroDivisionError"),
        ({"sead": 3}, r"unknown option 'sead'.* Did you mean 'seed'\?"),
    ],
    ids=["widths", "zero", "int", "no data", "error", "keyword"],
)
def test_models_data_and_keywords_that_cannot_be_served_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        ep.Problem(**{"data": ep.Data(train=(X, Y)), **options})
