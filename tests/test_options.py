"""Options that are made from keywords."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from evoprune.errors import InputError
from evoprune.options import accepted, check_choices, make, split


@dataclass(frozen=True)
class Search:
    k: int = 16
    seed: int = 0
    scope: Literal["global", "layer"] = "global"
    grow: tuple[Literal["gradient", "random"], ...] = ("gradient",)
    select: Literal["end", "start"] | None = None
    fitness: str | Literal["loss"] | Callable[..., Any] = "loss"
    inner: list[int] = field(default_factory=list, init=False)


@dataclass(frozen=True)
class Where:
    workers: str = "auto"
    seed: int = 0


def test_a_dataclass_is_made_from_keywords():
    assert make(Search, {"k": 3, "scope": "layer"}) == Search(k=3, scope="layer")
    assert make(Search, {}) == Search()


def test_keywords_are_shared_out():
    search, where = split((Search, Where), {"k": 3, "workers": "serial", "seed": 5})
    assert search == Search(k=3, seed=5)
    assert where == Where("serial", 5)


@pytest.mark.parametrize("name", ["sead", "inner"])
def test_an_unknown_keyword_is_refused(name):
    with pytest.raises(InputError, match=f"unknown option '{name}'; expected one of: fitness, grow, k, scope, seed, select, w"):
        split((Search, Where), {name: 1})
    with pytest.raises(InputError, match=r"Did you mean 'seed'\?"):
        make(Search, {"sead": 1})


@pytest.mark.parametrize(("name", "value"), [("scope", "layers"), ("grow", ("random", "layers")), ("select", "layers")])
def test_a_word_that_is_no_choice_is_refused(name, value):
    with pytest.raises(InputError, match=f"unknown {name} 'layers'; expected one of: "):
        make(Search, {name: value})
    with pytest.raises(InputError, match="expected one of"):
        check_choices(Search(**{name: value}))


@pytest.mark.parametrize(("name", "value"), [("select", None), ("fitness", "mine"), ("fitness", len), ("grow", ("random",))])
def test_other_values_are_taken(name, value):
    assert getattr(make(Search, {name: value}), name) == value


def test_a_function_gets_what_it_has_parameters_for():
    assert accepted(lambda mask, *, rng, scope="global": mask, {"scope": "layer", "grow": "random"}) == {"scope": "layer"}
