"""The problems that this process holds, by key, and the checks that they are the main process's."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from evoprune.errors import InputError
from evoprune.evaluation.evaluation import worker_name
from evoprune.evaluation.terms import Term, registered_terms
from evoprune.problem.identity import differing, digest_of
from evoprune.problem.problem import Problem
from evoprune.problem.usercode import versions

# The problems that this process has, by key: a worker builds each once. Workers of every kind call plain functions, so
# there is no other place that outlives a call.
_problems: dict[str, Problem] = {}
# As many as are kept; of others the payload comes again.
KEPT = 4


def remember(key: str, problem: Problem) -> None:
    """Keeps a problem for :func:`recall`."""
    _problems[key] = problem
    for oldest in list(_problems)[:-KEPT]:
        del _problems[oldest]


def recall(key: str, payload: bytes | None) -> Problem | None:
    """Returns this process's problem of that key, made from the payload the first time; None without either.

    Raises:
        InputError: The payload makes another problem here: other data, versions or code than in the main process.
    """
    if key not in _problems and payload is not None:
        theirs, identified, content = pickle.loads(payload)  # noqa: S301 - from the run's own main process, over its channel
        check_versions(theirs)
        problem = pickle.loads(content)  # noqa: S301 - likewise
        check_identity(identified, problem, registered_terms())
        remember(key, problem)
    return _problems.get(key)


def check_versions(theirs: Mapping[str, str]) -> None:
    """Checks that a worker has the main process's versions of the packages that decide results.

    Raises:
        InputError: It has not.
    """
    own = versions()
    other = [f"{name} is {own.get(name)}, there {version}" for name, version in theirs.items() if own.get(name) != version]
    if other:
        raise InputError(
            f"{worker_name()} has other versions than the main process: {', '.join(other)}; expected the same on every host."
        )


def check_identity(identified: Mapping[str, str], problem: Problem, terms: Mapping[str, Term]) -> None:
    """Checks that a problem, and the user's fitness terms, are the same in this process as in the main one.

    Args:
        identified: What the main process identified them by; see :meth:`Evaluator.identify`.
        problem: The problem.
        terms: The terms of the user's own that this process has.

    Raises:
        InputError: They are not.
    """
    own = problem.identify()
    for name in identified:
        if name.startswith("fitness "):
            term = terms.get(name.removeprefix("fitness "))
            own[name] = "" if term is None else digest_of(name, term, problem.options.ignore)
    if other := differing(identified, own):
        raise InputError(
            f"on {worker_name()} the problem has another hash than in the main process; these differ: {other}. Expected the "
            f"same data files, code and globals on every host; what a script sets under if __name__ == '__main__': only the "
            f"main process has."
        )
