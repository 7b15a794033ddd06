"""Ask and tell: a search whose masks anyone may evaluate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from deap import tools

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.evaluation.evaluation import FAILURE, OK, Evaluation, worker_name
from evoprune.evaluation.evaluator import Evaluator
from evoprune.evaluation.terms import TERMS, FitnessFunction
from evoprune.loggers.registry import make_loggers
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.journal import open_journal
from evoprune.search.course import settings_of, start_of
from evoprune.search.method import Method, identify_own, make_options, require
from evoprune.search.registry import METHODS, find_method
from evoprune.search.session import Evaluating, Session

TOLD = "told"


class Search:
    """A search as ask and tell: it proposes masks, and you say how fit they are, by whatever measure.

    Args:
        problem: The problem.
        method: Name of a method that evaluates masks (kstarts, combine, evolve, or your own), or a method itself.
        objectives: Number of fitness values of each mask.
        **options: Fields of the method's options; ``seed``; ``log``; and ``out``, the folder in which to record the
            fitness that is told and, if it holds this search already, to resume from.

    Raises:
        InputError: An unknown name, a value out of range, or an ``out`` that holds another run or cannot be written.

    Example:
        >>> search = ep.Search(problem, "evolve", k=4, generations=5)
        >>> while not search.finished:
        ...     masks = search.ask()
        ...     search.tell(masks, [measure(mask) for mask in masks])
        >>> search.best
    """

    def __init__(self, problem: Problem, method: str | Method, *, objectives: int = 1, **options: Any) -> None:
        found = find_method(method)
        if hasattr(found, "find"):
            raise InputError(f"{method!r} finds its mask without evaluating any; expected a search such as kstarts or evolve.")
        chosen, execution = make_options(found, options)
        loggers = make_loggers(execution.log)
        require(found, problem, chosen)
        if hasattr(found, "evaluator") and found.evaluator(problem, chosen).get("inherit"):
            raise InputError("inherit is given, but whoever tells fitness has the trained weights; expected ep.evolve for it.")
        seed = problem.seed if execution.seed is None else seeds.check_seed(execution.seed)
        names = [TOLD] if objectives == 1 else [f"{TOLD}{i}" for i in range(objectives)]
        evaluator = Evaluator(problem, fitness=[FitnessFunction(name, (name,)) for name in names], epochs=0, seed=seed)
        settings = {"problem": problem.config(), **settings_of(found, problem, chosen), "seed": seed, "objectives": objectives}
        journal = open_journal(execution, f"ask-{METHODS.name_of(method)}", settings, execution.recorded("module"))
        self._resources = ExitStack()
        self._resources.enter_context(journal.of(problem, identify_own(found, chosen, problem)))
        start = start_of(f"ask-{METHODS.name_of(method)}", settings, journal, problem)
        self._resources.enter_context(loggers.running(start, journal))
        self._names, self._session = names, Session(problem, journal, seed, execution, Evaluating(evaluator, None), loggers)
        self._search = found(self._session, chosen)
        self._asked: list[Mask] | None = None
        self._best: list[Mask] = []
        self._gen = getattr(self._search, "gen", 0)
        self._replay()

    @property
    def finished(self) -> bool:
        """Whether the search is over."""
        return bool(self._search.finished)

    @property
    def best(self) -> Mask:
        """The fittest of the masks whose fitness was told.

        Raises:
            InputError: No fitness was told yet.
        """
        its_own: Mask | None = getattr(self._search, "best", None)  # of a resumed search, too
        found = [*([] if its_own is None else [its_own]), *self._best]
        if not found:
            raise InputError("no fitness was told yet; expected search.tell(search.ask(), fitness) first.")
        return max(found, key=lambda mask: mask.fitness)

    def ask(self) -> list[Mask]:
        """Returns the masks whose fitness the search wants next; the same ones until it is told."""
        if self._asked is None:
            self._asked = list(self._search.ask())
        return list(self._asked)

    def tell(self, masks: Sequence[Mask], fitness: Sequence[float | Sequence[float]]) -> None:
        """Takes the fitness of the masks of the last :meth:`ask`. Larger is fitter; NaN and -inf stand for a failure.

        Args:
            masks: The masks of :meth:`ask`, in any order.
            fitness: A number for each, or as many numbers as there are objectives.

        Raises:
            InputError: Other masks than those of the last :meth:`ask`, or another number of values.
        """
        rows = [tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),) for value in fitness]
        wanted = {mask.hash for mask in self.ask()}
        if len(rows) != len(masks) or {mask.hash for mask in masks} != wanted:
            raise InputError(
                f"{len(rows)} values are told of {len(masks)} masks; expected one for each of the {len(wanted)} masks of "
                f"search.ask()."
            )
        if wrong := [row for row in rows if len(row) != len(self._names)]:
            raise InputError(f"the fitness {wrong[0]} is told; expected {len(self._names)} numbers a mask.")
        told = {mask.hash: self._evaluation(mask, row) for mask, row in zip(masks, rows, strict=True)}
        told |= {mask: e for mask, e in self._session.evaluator.known.items() if mask in told}  # the first fitness counts
        self._session.record(self._gen, list(told.values()))
        self._take(told)
        self._replay()  # a generation of masks whose fitness is known needs no telling

    def close(self) -> None:
        """Ends the loggers, and leaves the folder to other processes."""
        if self.finished:
            self._session.loggers.finish(None)
        self._resources.close()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _replay(self) -> None:
        """Tells the search the fitness that it knows, or that an earlier process has recorded."""
        while not self.finished:
            recorded = self._session.journal.recorded(self._gen)
            known, masks = {**self._session.evaluator.known, **recorded}, self.ask()
            if not masks or not all(mask.hash in known for mask in masks):
                return
            self._take(known)

    def _take(self, told: Mapping[str, Evaluation]) -> None:
        evaluator, masks = self._session.evaluator, self.ask()
        evaluator.known |= told
        for mask in masks:
            mask.fitness.values = evaluator.values(told[mask.hash])
        self._search.tell(masks)
        self._best = tools.selBest([*self._best, *masks], 1)
        self._asked, self._gen = None, self._gen + 1

    def _evaluation(self, mask: Mask, row: Sequence[float]) -> Evaluation:
        ok = all(map(math.isfinite, row))
        terms = {**dict.fromkeys(TERMS, math.nan), **dict(zip(self._names, row, strict=True))}
        return Evaluation(
            mask=mask.hash, seed=self._session.order, terms=terms, status=OK if ok else FAILURE, note="told",
            worker=worker_name(), seconds=0.0,
            validation_loss=math.nan, validation_accuracy=math.nan, multiply_adds=math.nan,
        )  # fmt: skip
