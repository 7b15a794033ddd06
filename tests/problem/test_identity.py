"""Code that trains differently has another hash, in any process."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support.identity import HELPERS, SCRIPT, X, Y, load

import evoprune as ep
from evoprune.problem.identity import digest_of

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
