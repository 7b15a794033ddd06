"""A problem's hash: another where it trains differently, the same where it does not, in every process and place."""

import dataclasses
import gc
import importlib.util
import itertools
import os
import pickle
import random
import subprocess
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
from torch import nn

import evoprune as ep
from evoprune.problem.identity import digest_of
from evoprune.problem.walk import UnidentifiedError

HELPERS = """
import torch
BEND = 0.5
UNREAD = 1
def bend(x):
    return torch.where(x > 0, x, BEND * x)
def unread(x):
    return x + 1
"""
SCRIPT = '''
"""A script."""
import enum
import functools
import math
from collections import namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import helpers_of_identity as helpers

SLOPE = 0.1
UNUSED = 1
TABLE = {"scale": 1.0}
ARGS = SimpleNamespace(gain=1.0, out="runs/a")
Range = namedtuple("Range", "low high")
ONE, OTHER = (lambda x: x + 0.0), (lambda x: x - 0.0)


class Kind(enum.Enum):
    SOFT = 1
    HARD = 2


@dataclass
class Shift:
    by: float = 0.0
    all: list = field(default_factory=lambda: [1.0])


class Slots:
    __slots__ = ("_power",)

    def __init__(self):
        self._power = 1.0


class Scale:
    """An object that is called."""

    bias = 0.0

    def __init__(self, factor):
        self._factor = factor
        self.tensor = torch.ones(1)
        self.array = np.ones(1)

    def __call__(self, x):
        return self.apply(x) + self.offset

    def apply(self, x):
        return x * self._factor * self.tensor * float(self.array[0])

    @property
    def offset(self):
        return self.bias

    @staticmethod
    def twice(x):
        return 2 * x


class Fresh:
    def __init__(self):
        self.factor = 1.0


def inner(x):
    return x * SLOPE


def outer(x, k=1.0, *, c=0.0):
    def nested(y):
        return y * k + c
    return nested(inner(x))


def make(width):
    def act(x):
        return x * width
    return act


@torch.no_grad()
def decorated(x):
    return x * 1.0


@functools.cache
def table(n):
    return float(n)


class Base(nn.Module):
    power = 1.0

    def before(self, x):
        return x * 1.0


class Net(Base):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 2)
        self.register_buffer("shift", torch.zeros(6))
        self.act = torch.relu
        self.more = functools.partial(F.leaky_relu, negative_slope=0.2)
        self.closed = make(1.0)
        self.scale = Scale(1.0)
        self.method = Scale(1.0).apply
        self.kind = Kind.SOFT
        self.moves = Shift()
        self.slots = Slots()
        self.range = Range(0, 1)
        self._hidden = [1.0, {"deep": 1.0}]
        self.function = lambda x: x * 1.0
        self.chosen = ONE
        self.np = np.tanh

    def forward(self, x):
        # a comment
        x = self.before(x)
        x = self.a(x) + self.shift
        x = self.closed(self.more(self.act(x)))
        x = outer(x) * TABLE["scale"] * ARGS.gain * table(1) * Fresh().factor
        x = helpers.bend(self.function(self.chosen(x)))
        x = self.method(self.scale(x)) ** self.slots._power
        x = x + self.moves.by + self.range.low + sum(self._hidden[:1]) * 0
        if self.kind is Kind.SOFT:
            from math import sqrt
            x = decorated(x) * 0 + x * sqrt(1.0)
        return self.b(x)


class Loss:
    def __init__(self):
        self._weight = 1.0
        self.classes = torch.ones(2)

    def __call__(self, outputs, targets):
        return self._weight * F.cross_entropy(outputs, targets, weight=self.classes)
'''
OFFSET = """    @property
    def offset(self):
        return self.bias
"""
TWICE = """    @staticmethod
    def twice(x):
        return 2 * x
"""
# What is changed in the script, and in what it imports: each makes a network or loss that trains differently.
DIFFERENT = {
    "a global": ("SLOPE = 0.1", "SLOPE = 0.2"),
    "a global table": ('TABLE = {"scale": 1.0}', 'TABLE = {"scale": 2.0}'),
    "an attribute of a global": ("gain=1.0", "gain=2.0"),
    "a helper": ("return x * SLOPE", "return x + SLOPE"),
    "a helper's default": ("def outer(x, k=1.0", "def outer(x, k=2.0"),
    "a keyword default": ("c=0.0)", "c=1.0)"),
    "a nested function": ("return y * k + c", "return y * k - c"),
    "a closure": ("self.closed = make(1.0)", "self.closed = make(2.0)"),
    "a factory of closures": ("return x * width", "return x + width"),
    "a builtin": ("self.act = torch.relu", "self.act = torch.tanh"),
    "a ufunc": ("self.np = np.tanh", "self.np = np.sin"),
    "a partial's keyword": ("negative_slope=0.2", "negative_slope=0.3"),
    "a partial's function": ("functools.partial(F.leaky_relu, negative_slope=0.2)", "functools.partial(F.elu, alpha=0.2)"),
    "a lambda": ("lambda x: x * 1.0", "lambda x: x * 2.0"),
    "another lambda of the line": ("self.chosen = ONE", "self.chosen = OTHER"),
    "a method": ("x = self.a(x) + self.shift", "x = self.a(x) - self.shift"),
    "a base class": ("def before(self, x):\n        return x * 1.0", "def before(self, x):\n        return x * 2.0"),
    "an attribute of a base class": ("power = 1.0\n\n    def before", "power = 2.0\n\n    def before"),
    "a private attribute": ("self._hidden = [1.0,", "self._hidden = [2.0,"),
    "an attribute deep inside": ('{"deep": 1.0}', '{"deep": 2.0}'),
    "a callable object": ("self.scale = Scale(1.0)", "self.scale = Scale(2.0)"),
    "a bound method's object": ("self.method = Scale(1.0).apply", "self.method = Scale(2.0).apply"),
    "a tensor of an object": ("self.tensor = torch.ones(1)", "self.tensor = torch.zeros(1)"),
    "an array of an object": ("self.array = np.ones(1)", "self.array = np.zeros(1)"),
    "a class attribute": ("bias = 0.0", "bias = 1.0"),
    "a property": ("return self.bias", "return -self.bias"),
    "a slot": ("self._power = 1.0", "self._power = 2.0"),
    "a member of an enumeration": ("self.kind = Kind.SOFT", "self.kind = Kind.HARD"),
    "a field of a dataclass": ("by: float = 0.0", "by: float = 1.0"),
    "a named tuple": ("Range(0, 1)", "Range(1, 1)"),
    "a constructor that is called later": ("self.factor = 1.0", "self.factor = 2.0"),
    "below a decorator": ("def decorated(x):\n    return x * 1.0", "def decorated(x):\n    return x * 2.0"),
    "behind a cache": ("return float(n)", "return -float(n)"),
    "what is imported inside": ("from math import sqrt", "from math import exp as sqrt"),
    "a buffer": ("torch.zeros(6)", "torch.ones(6)"),
    "W0": ("torch.manual_seed(1)", "torch.manual_seed(2)"),
    "the loss": ("return self._weight * F", "return -self._weight * F"),
    "a private attribute of the loss": ("self._weight = 1.0", "self._weight = 2.0"),
    "a tensor of the loss": ("self.classes = torch.ones(2)", "self.classes = torch.tensor([1.0, 2.0])"),
    "a helper module's function": ("BEND * x", "BEND + x"),
    "a helper module's global": ("BEND = 0.5", "BEND = 0.4"),
}
# Each leaves training as it is.
EQUAL = {
    "nothing": ("", ""),
    "a comment": ("# a comment", "# another comment"),
    "a comment in a helper": ("return x * SLOPE", "return x * SLOPE  # slope"),
    "a docstring": ('"""An object that is called."""', '"""An object that one can call."""'),
    "the script's docstring": ('"""A script."""', '"""The script.\n\nIt has more lines.\n"""'),
    "a line break": ("return x * SLOPE", "return (\n        x * SLOPE\n    )"),
    "blank lines": ("class Base(", "\n\n\nclass Base("),
    "annotations": ("def inner(x):", "def inner(x: torch.Tensor) -> torch.Tensor:"),
    "a global that is not read": ("UNUSED = 1", "UNUSED = 2"),
    "a renamed global that is not read": ("UNUSED = 1", "UNREAD = 1"),
    "an attribute that is not read": ('out="runs/a"', 'out="runs/b"'),
    "a new function": ("def inner(x):", "def new(x):\n    return x\n\n\ndef inner(x):"),
    "the order of methods": (f"{OFFSET}\n{TWICE}", f"{TWICE}\n{OFFSET}"),
    "a helper module's function that is not read": ("return x + 1", "return x + 2"),
    "a helper module's global that is not read": ("UNREAD = 1\ndef", "UNREAD = 2\ndef"),
}
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def load(script: Path) -> types.ModuleType:
    """Runs a script under a name of its own, as every process may."""
    spec = importlib.util.spec_from_file_location(f"script_{next(NUMBERS)}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NUMBERS = itertools.count()


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ep.Problem]:
    """Makes the script's problem, with something replaced in it or in what it imports."""

    def make(old: str = "", new: str = "") -> ep.Problem:
        folder = tmp_path / str(next(NUMBERS))
        folder.mkdir()
        assert old in SCRIPT or old in HELPERS
        (folder / "helpers_of_identity.py").write_text(HELPERS.replace(old, new) if old else HELPERS)
        (folder / "script.py").write_text(SCRIPT.replace(old, new) if old else SCRIPT)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.delitem(sys.modules, "helpers_of_identity", raising=False)
            patch.setattr(sys, "dont_write_bytecode", True)
            script = load(folder / "script.py")
        return ep.Problem(model=script.Net(), data=ep.Data(train=(X, Y)), loss=script.Loss())

    return make


@pytest.mark.parametrize("edit", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_code_that_trains_differently_has_another_hash(edited: Any, edit: tuple[str, str]) -> None:
    before, after = edited(), edited(*edit)
    assert before.hash != after.hash
    assert before != after


@pytest.mark.sampled(10)
@pytest.mark.parametrize("edit", EQUAL.values(), ids=EQUAL.keys())
def test_code_that_trains_alike_has_the_same_hash(edited: Any, edit: tuple[str, str]) -> None:
    assert edited().hash == edited(*edit).hash


MAIN = """
if __name__ == "__main__":
    import evoprune as ep
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    print(ep.Problem(model=Net(), data=ep.Data(train=(x, (x[:, 0] > 0).long())), loss=Loss()).hash)
"""


@pytest.mark.process
def test_the_hash_is_that_of_another_process_and_of_a_script_as_such(edited: Any, tmp_path: Path) -> None:
    expected, found = edited().hash, []
    for seed in ("1", "2"):
        folder = tmp_path / f"moved-{seed}"
        folder.mkdir()
        (folder / "helpers_of_identity.py").write_text(HELPERS)
        (folder / "another.py").write_text(SCRIPT + MAIN)
        done = subprocess.run(
            [sys.executable, folder / "another.py"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found.append(done.stdout.strip())
    assert found == [expected, expected]


RUNS = """
if __name__ == "__main__" or RUN:
    import sys
    import evoprune as ep
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    problem = ep.Problem(model=Net(), data=ep.Data(train=(x, (x[:, 0] > 0).long())), loss=Loss(), recipe=ep.Recipe(epochs=1))
    print(ep.k_starts(problem, k=2, sparsity=0.5, fitness_epochs=1, out=sys.argv[1]).summary["test_loss"])
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_run_is_resumed_by_a_moved_script_and_by_whoever_imports_it(tmp_path: Path) -> None:
    printed = []
    for name, command in (("one.py", "one.py"), ("two.py", "two.py"), ("three.py", "-c import three")):
        folder = tmp_path / name.removesuffix(".py")
        folder.mkdir()
        (folder / "helpers_of_identity.py").write_text(HELPERS)
        (folder / name).write_text(f"RUN = {command.startswith('-c')}\n{SCRIPT.lstrip()}{RUNS}")
        arguments = command.split(" ", 1)
        done = subprocess.run(
            [sys.executable, *arguments, tmp_path / "run"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
        for path in (tmp_path / "run").glob("result.json"):
            path.unlink()
    assert len(set(printed)) == 1


def test_a_global_that_changes_changes_the_hash_at_once(edited: Any) -> None:
    problem = edited()
    before = problem.hash
    script = sys.modules[type(problem.network()).__module__]
    script.SLOPE = 0.3  # type: ignore[attr-defined]
    assert problem.hash != before


def test_source_that_was_edited_since_does_not_stand_for_the_code_that_runs(edited: Any) -> None:
    problem = edited()
    before = problem.hash
    script = sys.modules[type(problem.network()).__module__]
    Path(str(script.__file__)).write_text(SCRIPT.replace("return x * SLOPE", "return x + SLOPE"))
    fresh = load(Path(str(script.__file__)))
    assert ep.Problem(model=fresh.Net(), data=ep.Data(train=(X, Y)), loss=fresh.Loss()).hash != before
    stale = types.FunctionType(script.inner.__code__.replace(co_firstlineno=script.inner.__code__.co_firstlineno + 1), {})
    assert digest_of("stale", stale) != digest_of("fresh", fresh.inner)


def test_code_without_source_counts_by_its_instructions() -> None:
    def made(text: str) -> Any:
        names: dict[str, Any] = {}
        exec(text, names)
        return names["f"]

    same = digest_of("f", made("def f(x): return x + 1  # one"))
    assert digest_of("f", made("\n\ndef f(x):\n    return x + 1")) == same
    assert digest_of("f", made("def f(x): return x + 2")) != same
    assert digest_of("f", made("def f(x): return x + 1.0")) != same


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
