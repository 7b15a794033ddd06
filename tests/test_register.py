"""Registries, and the registration of a user's own things."""

import numpy as np
import pytest

import evoprune as ep
from evoprune import operators
from evoprune.baselines.registry import BASELINES
from evoprune.errors import InputError
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import MUTATIONS
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
