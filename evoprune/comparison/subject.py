"""The user's own problems in a comparison: a problem or a function that makes them, and the identity of each."""

from __future__ import annotations

import functools
import json
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import cloudpickle
from torch import nn

from evoprune.errors import InputError
from evoprune.options import parameters_of
from evoprune.problem.problem import Problem
from evoprune.problem.usercode import remember_texts
from evoprune.registry import describe
from evoprune.runs.settings import settings_difference
from evoprune.system.loading import identify_files

# Data, model and seed, and the facts by which a comparison knows the problem again: ``config`` and ``identity``.
Key: TypeAlias = tuple[str, str, int]
Facts: TypeAlias = Mapping[str, Mapping[str, Any]]


class Subject:
    """A problem for each seed of a comparison.

    Args:
        given: A problem, whose seed is replaced; or a function that takes a seed and returns the problem of that seed.

    Raises:
        InputError: It is neither.
    """

    def __init__(self, given: Problem | Callable[..., Problem]) -> None:
        if not isinstance(given, Problem) and (isinstance(given, nn.Module) or not callable(given)):
            raise InputError(
                f"the problem is {type(given).__name__}; expected ep.Problem, or a function that takes a seed and returns one."
            )
        self.given = given
        self._made: dict[int, Problem] = {}  # the last two, as cells need them one after another
        self._texts: dict[str, str] = {}
        self._payload: bytes | None = None

    def problem(self, seed: int) -> Problem:
        """Returns the problem of a seed.

        Raises:
            InputError: The function fails, or returns no problem, or one of another seed.
        """
        if seed not in self._made:
            problem = self.given.with_seed(seed) if isinstance(self.given, Problem) else self._call(self.given, seed)
            self._made = {**dict(list(self._made.items())[-1:]), seed: problem}
        return self._made[seed]

    def _call(self, make: Callable[..., Any], seed: int) -> Problem:
        name = describe(make)
        try:
            problem = make(seed=seed) if "seed" in parameters_of(make) else make(seed)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the function {name} failed for seed {seed}: {type(error).__name__}: {error}") from error
        if not isinstance(problem, Problem):
            raise InputError(f"the function {name} made {type(problem).__name__}; expected ep.Problem.")
        if problem.seed != seed:
            raise InputError(
                f"the function {name} made a problem of seed {problem.seed} for seed {seed}; expected the problem of the seed: "
                f"ep.Problem(..., seed=seed)."
            )
        return problem

    def remember(self, problem: Problem) -> None:
        """Keeps the text of a problem's code, which workers need to identify it."""
        self._texts |= problem.texts
        self._payload = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._payload is None:
            self._payload = pickle.dumps((self._texts, cloudpickle.dumps(self.given)))
        return _received, (self._payload,)


@functools.lru_cache(maxsize=1)
def _received(payload: bytes) -> Subject:
    """Returns the subject in a worker; it is made once for all cells that the worker does one after another."""
    texts, content = pickle.loads(payload)  # noqa: S301 - from the comparison's own main process
    remember_texts(texts)
    return Subject(pickle.loads(content))  # noqa: S301 - from there as well


def cell_name(name: str) -> str:
    """Returns the name of a network or data set as tables, files and folders have it."""
    return re.sub("[<>]", "", name.replace("<locals>.", "")).replace("/", "-")


def facts_of(problem: Problem) -> Facts:
    """Returns the facts by which a comparison knows a problem again, as JSON values.

    Raises:
        InputError: The problem cannot be identified.
    """
    files = identify_files([problem.options.model, problem.options.data])
    facts = {"config": problem.config(), "identity": {**problem.identify(), **files}}
    return json.loads(json.dumps(facts))  # type: ignore[no-any-return]


def facts_difference(before: Facts, now: Facts, but: str = "") -> str:
    """Returns in words how a problem was and is now; empty for no difference.

    Args:
        before: Its facts.
        now: Its facts now.
        but: The name of a part that may differ, such as ``recipe``.
    """
    configs = ({"problem": {name: value for name, value in each["config"].items() if name != but}} for each in (before, now))
    if difference := settings_difference(*configs):
        return difference
    parts, others = before["identity"], now["identity"]
    names = [name for name in dict.fromkeys([*parts, *others]) if parts.get(name) != others.get(name) and name != but]
    return f"these have changed: {', '.join(names)}" if names else ""
