"""Values that behave differently have other digests, and problems that cannot be identified are refused."""

import dataclasses
import gc
import pickle
import random
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.identity import X, Y
from torch import nn

import evoprune as ep
from evoprune.problem.identity import digest_of
from evoprune.problem.walk import UnidentifiedError


class Plain(nn.Module):
    def __init__(self, **more: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        vars(self).update(more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


def plain(change: Callable[[Plain], None] | None = None, **options: Any) -> ep.Problem:
    network = Plain()
    if change is not None:
        change(network)
    return ep.Problem(**{"model": network, "data": ep.Data(train=(X, Y))} | options)


def freeze(network: Plain) -> None:
    network.a.weight.requires_grad_(False)


def double(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


def hook(network: Plain) -> None:
    network.a.register_forward_hook(double)


def forward_of_its_own(network: Plain) -> None:
    network.forward = types.MethodType(lambda self, x: self.b(self.a(x)), network)  # type: ignore[method-assign]


def swap_order(network: Plain) -> None:
    network.b, network.a = network.b, network.a
    network._modules = dict(reversed(network._modules.items()))


def in_other_units(data: ep.Data) -> ep.Data:
    return ep.Data(train=(data.train[0].double(), data.train[1]))


DATA = ep.Data(train=(X, Y))


# Problems that differ in what is no code: each in one argument, or one change of the network.
OPTIONS: dict[str, Callable[[], ep.Problem]] = {
    "frozen weights": lambda: plain(freeze),
    "a hook": lambda: plain(hook),
    "a forward of one object": lambda: plain(forward_of_its_own),
    "the order of layers": lambda: plain(swap_order),
    "the seed": lambda: plain(seed=1),
    "the recipe": lambda: plain(recipe=ep.Recipe(lr=0.01)),
    "an option of the optimiser": lambda: plain(recipe=ep.Recipe(options={"dampening": 0.1})),
    "the loss": lambda: plain(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weights of the loss": lambda: plain(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))),
    "other weights of the loss": lambda: plain(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))),
    "what is excluded": lambda: plain(exclude=["b"]),
    "the dtype": lambda: plain(dtype="float64"),
    "the data's dtype": lambda: plain(data=in_other_units(DATA)),
    "an input": lambda: plain(data=ep.Data(train=(torch.where(torch.arange(60)[:, None] == 7, X + 1e-6, X), Y))),
    "a target": lambda: plain(data=ep.Data(train=(X, torch.where(torch.arange(60) == 7, 1 - Y, Y)))),
    "the order of examples": lambda: plain(data=ep.Data(train=(X.flip(0), Y.flip(0)))),
    "validation data": lambda: plain(data=ep.Data(train=(X, Y), validation=(X[:9], Y[:9]))),
    "a fraction": lambda: plain(validation_fraction=0.2),
    "a scaled W0": lambda: plain(w0_density=0.5),
    "an identity": lambda: plain(identity="mine"),
    "another identity": lambda: plain(identity="mine-2"),
}


def test_problems_that_differ_in_what_is_no_code_have_different_hashes() -> None:
    hashes = {name: make().hash for name, make in {"plain": plain, **OPTIONS}.items()}
    assert len(set(hashes.values())) == len(hashes), hashes


@pytest.mark.sampled(10)
@pytest.mark.parametrize("make", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_same_problem_made_twice_has_the_same_hash(make: Callable[[], ep.Problem]) -> None:
    assert make().hash == make().hash


class Noise(random.Random):
    pass


class Gauge(np.ndarray):
    pass


def of_class(text: str) -> Any:
    """Returns what a piece of code names ``it``: classes that differ in one word."""
    names: dict[str, Any] = {"dataclass": dataclass, "field": field}
    exec(text, names)
    return names["it"]


def views(shared: bool) -> dict[str, torch.Tensor]:
    whole = torch.zeros(3)
    return {"a": whole[:2], "b": whole[1:] if shared else whole[1:].clone()}


def with_attribute(value: float) -> torch.Tensor:
    tensor = torch.ones(1)
    tensor.gain = value  # type: ignore[attr-defined]
    return tensor


DATACLASS = "@dataclass({})\nclass it:\n    a: float = {}\n    b: list = field(default_factory=lambda: [{}])"

CALLED = "def one(self): return 1\ndef two(self): return 2\nclass it:\n    __call__ = {}\nit = it()"


# Pairs of values of which a network may be made, and that behave differently.
PAIRS: dict[str, tuple[Any, Any]] = {
    "memory that is shared": (views(True), views(False)),
    "elements that are one": (torch.ones(1).expand(2), torch.ones(2)),
    "an attribute of a tensor": (with_attribute(1.0), with_attribute(2.0)),
    "a mask of an array": (np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([1.0, 2.0], mask=[1, 0])),
    "a class of arrays": (np.ones(2), np.ones(2).view(Gauge)),
    "a class of generators": (Noise(1), Noise(2)),
    "a field's default": (of_class(DATACLASS.format("", 1, 1)), of_class(DATACLASS.format("", 2, 1))),
    "a field's factory": (of_class(DATACLASS.format("", 1, 1)), of_class(DATACLASS.format("", 1, 2))),
    "how a dataclass compares": (of_class(DATACLASS.format("", 1, 1)), of_class(DATACLASS.format("eq=False", 1, 1))),
    "what an object is when called": (of_class(CALLED.format("one")), of_class(CALLED.format("two"))),
    "numbers of another kind": ((1, 1.0, True), (1.0, 1, True)),
    "zero's sign": (0.0, -0.0),
    "the order of a table": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_values_that_behave_differently_have_other_digests(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert digest_of("it", one) != digest_of("it", other)
    assert digest_of("it", one) == digest_of("it", one)


def test_tied_weights_differ_from_equal_ones() -> None:
    def tied(network: Plain) -> None:
        network.b = nn.Linear(4, 4)
        network.b.weight = network.a.weight

    def equal(network: Plain) -> None:
        tied(network)
        network.b.weight = nn.Parameter(network.a.weight.detach().clone())

    def made(change: Callable[[Plain], None]) -> str:
        torch.manual_seed(0)
        return plain(change, loss=nn.CrossEntropyLoss()).hash

    assert made(tied) != made(equal)


def test_pickling_a_class_for_the_first_time_changes_nothing(edited: Any) -> None:
    problem = edited()
    before = problem.hash
    script = sys.modules[type(problem.network()).__module__]
    for thing in (script.Loss(), script.Scale(1.0), script.Shift()):
        pickle.dumps(thing)
    assert "__slotnames__" in vars(script.Loss)
    assert problem.hash == before


def test_a_method_of_an_installed_class_that_the_user_replaced_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plain().hash
    stock = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * stock(self, x))
    assert plain().hash != before


def test_fractions_count_only_where_they_split(tensors: ep.Data) -> None:
    parts = ep.Data(train=(X, Y), validation=(X[:9], Y[:9]), test=(X[9:20], Y[9:20]))
    assert plain(data=parts).hash == plain(data=parts, validation_fraction=0.4, test_fraction=0.4).hash


def test_attributes_that_cannot_be_read_apart_are_refused_by_name(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        things = {"file": log, "lock": threading.Lock(), "generator": (i for i in "ab"), "ufunc": np.frompyfunc(abs, 1, 1)}
        for name, thing in things.items():
            with pytest.raises(UnidentifiedError, match=rf"model\.{name} is a .*ignore=\('{name}',\).*identity="):
                digest_of("model", Plain(**{name: thing}))


class Logging(Plain):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __deepcopy__(self, memo: Any) -> "Logging":
        copy = Logging(self.path)
        copy.load_state_dict(self.state_dict())
        copy.log = self.path.open("a")  # type: ignore[assignment]
        memo["file"] = copy.log
        return copy


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_two_ways_out_are_recorded(tmp_path: Path) -> None:
    def problem(**options: Any) -> ep.Problem:
        return plain(model=Logging(tmp_path / "log"), recipe=ep.Recipe(epochs=1), **options)

    run = {"k": 2, "sparsity": 0.5, "fitness_epochs": 1, "controls": False}
    with pytest.raises(ep.InputError, match=r"model\.log is a .*TextIOWrapper"):
        ep.k_starts(problem(), out=tmp_path / "a", **run)
    assert not (tmp_path / "a").exists()
    ep.k_starts(problem(), **run)  # nothing is recorded, so nothing needs to be known again
    ignoring, named = problem(ignore=("log", "path")), problem(identity="logging-net-1")
    assert ignoring.config()["ignore"] == ["log", "path"]
    assert named.config()["identity"] == "logging-net-1"
    for folder, made in (("b", ignoring), ("c", named)):
        ep.k_starts(made, out=tmp_path / folder, **run)
        assert (tmp_path / folder / "result.json").exists()
    assert ep.Problem.from_config(named.config(), model=Logging(tmp_path / "log"), data=DATA).hash == named.hash
    del ignoring, named, made
    gc.collect()  # the files that nobody closes, whose warnings are ignored here


@pytest.mark.parametrize("identity", ["", 3])
def test_an_identity_is_a_name(identity: Any) -> None:
    with pytest.raises(ep.InputError, match="expected a name for model and loss"):
        plain(identity=identity)


def test_the_device_does_not_count() -> None:
    problem, other = plain(), plain()
    other.options = dataclasses.replace(other.options, device="cuda:1")
    assert other.device == "cuda:1"
    assert problem.hash == other.hash
