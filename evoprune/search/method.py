"""The protocol of a method: its options, its search as ask and tell, and its cost, in one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

from evoprune.masks.mask import Mask
from evoprune.options import split
from evoprune.problem.identity import digest_of
from evoprune.problem.metrics import own_metrics
from evoprune.problem.problem import Problem
from evoprune.problem.usercode import package_of_class
from evoprune.search.execution import Execution
from evoprune.search.final import Plan
from evoprune.search.session import Session
from evoprune.system.loading import identify_loaded


@dataclass(frozen=True)
class Found:
    """A mask, the epochs of training that it took to find it, and their cost in epochs of dense training.

    If the mask has a snapshot, its training continues from there, and not from W0.
    """

    mask: Mask
    search_epochs: float = 0.0
    search_cost: float = 0.0


class AskTell(Protocol):
    """A method that evaluates masks. The search is written once, as ask and tell.

    The class itself is registered: ``@ep.register.method("mine")``. Its first docstring line is its help. Beside the members
    listed here it may have

    - ``require(problem, options)``, a static method: checks the options before any work;
    - ``evaluator(problem, options)``, a static method: further keywords of :class:`evoprune.Evaluator`, and ``sparsity``, that
      of the first masks, if it is not ``options.sparsity``;
    - ``plan(problem, options)``, a static method: how chosen masks are trained, see :class:`evoprune.search.final.Plan`;
    - ``settings(problem, options)``, a static method: the options as a run records them;
    - ``name_of(options)``, a static method: the method's name in records, if options decide it;
    - ``own(options)``, a static method: the user's own functions that the options name, by kind and name;
    - ``cost(problem, options)``, a static method: see :data:`Cost`;
    - ``evaluations(problem, options)``, a static method: the number of evaluations, for ``--dry-run``;
    - ``chosen()``: masks by role, ``winner`` and controls; without it the fittest mask is trained;
    - ``report(history, trainings)``: more entries of ``result.json``;
    - ``drive()``: does the whole search, if asking and telling in turn is not enough.

    Attributes:
        Options: A frozen dataclass of the method's options, which are its keywords in Python and its flags on the command line;
            :class:`evoprune.search.options.SearchOptions` has those that every such method needs.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, session: Session, options: Any) -> None:
        """Begins the search, or resumes it from the session's journal."""

    @property
    def finished(self) -> bool:
        """Whether the search is over."""

    def ask(self) -> Sequence[Mask]:
        """Returns the masks to evaluate next."""

    def tell(self, masks: Sequence[Mask]) -> None:
        """Takes the masks of the last :meth:`ask`, with their fitness and evidence."""


class Finds(Protocol):
    """A method that finds one mask without evaluating any.

    Attributes:
        Options: A frozen dataclass of its options.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, session: Session, options: Any) -> None:
        """Prepares the search."""

    def find(self) -> Found:
        """Returns the mask that is trained."""


# Cost of a method as a function of the recipe's epochs, in epochs of training the dense network; infinite for too few epochs.
Cost = Callable[[int], float]
# A class that satisfies AskTell or Finds.
Method: TypeAlias = type[Any]


def make_options(method: Method, given: Mapping[str, Any]) -> tuple[Any, Execution]:
    """Makes a method's options, and the execution, from flat keywords.

    Args:
        method: The method. Fields of dataclasses within its options are keywords, too.
        given: The keywords.

    Raises:
        InputError: A keyword that is no field, or a value that is none of its field's choices.
    """
    nested: dict[str, Any] = {f.name: f.default_factory for f in fields(method.Options) if is_dataclass(f.default_factory)}
    inner = {name: kind for name, kind in nested.items() if name not in given}
    options, execution, *parts = split((method.Options, Execution, *inner.values()), given)
    return replace(options, **dict(zip(inner, parts, strict=True))), execution


def plan_of(method: Method, problem: Problem, options: Any) -> Plan:
    """Returns how a method's masks are trained."""
    made: Plan = method.plan(problem, options) if hasattr(method, "plan") else Plan(getattr(options, "restart", False))
    return made


def summary_of(method: Method) -> str:
    """Returns the first line of a method's docstring."""
    return (method.__doc__ or "").strip().partition("\n")[0]


def identify_own(method: Method, options: Any, problem: Problem) -> dict[str, str]:
    """Returns the digests of the user's own code that a search uses: method, operators, metrics, and files that were loaded.

    Raises:
        InputError: It holds a value that cannot be identified.
    """
    own: dict[str, object] = dict(method.own(options)) if hasattr(method, "own") else {}
    own |= {f"metric {name}": function for name, function in own_metrics(problem.metrics).items()}
    if package_of_class(method) is None:
        own[f"method {method.__name__}"] = method
    files = identify_loaded([problem.options.model, problem.options.data])
    return {**{name: digest_of(name, thing, problem.options.ignore) for name, thing in own.items()}, **files}


def require(method: Method, problem: Problem, options: Any) -> None:
    """Checks a method's options against a problem, before any work.

    Raises:
        InputError: A value out of range, or values that do not go together.
    """
    check = getattr(method, "require", None)
    if check is not None:
        check(problem, options)
