"""Evaluator: from masks to fitness, through brief training."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import numpy as np

from evoprune import seeds
from evoprune.engines import check as engines
from evoprune.errors import InputError, SurvivorsWarning, look_up, warn_in_spite_of_blanket_filters
from evoprune.evaluation.brief import BriefTraining, evaluate_chunk
from evoprune.evaluation.chunks import split
from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.evidence import MAGNITUDE
from evoprune.evaluation.job import recall
from evoprune.evaluation.terms import ACCURACY, FAILED, FITNESS, SPARSITY, FitnessFunction, registered_terms
from evoprune.evaluation.workers import Workers
from evoprune.masks.mask import Mask, Values
from evoprune.operators.keeping import repair
from evoprune.problem.identity import Identified, hash_of, identify
from evoprune.problem.problem import Problem
from evoprune.problem.usercode import versions
from evoprune.system.forks import is_forked
from evoprune.system.importing import require_main_guard
from evoprune.training.dissipation import MOVEMENTS, Dissipation


class Evaluator:
    """Fitness of masks, for one problem and one brief training.

    As a function of a mask it is what DEAP calls ``evaluate``: it returns a tuple with the fitness, -inf for a failure.
    An evaluation is deterministic, so a mask is evaluated once.

    Args:
        problem: The problem.
        fitness: Name of the fitness, see :data:`evoprune.evaluation.terms.FITNESS`; several names for as many objectives.
        epochs: Epochs of the brief training; 0 judges the untrained masked networks, which have no gradients.
        engine: Name of the engine, see :data:`evoprune.engines.registry.ENGINES`.
        threads: Threads that torch uses in every evaluating process. Results may differ in their last bits between
            numbers of threads.
        chunk_size: Masks that are evaluated together; never depends on the number of workers.
        seed: The run's seed; None takes the problem's.
        dissipation: What is removed during the brief training; None for nothing.
        evidence: See :class:`evoprune.evaluation.brief.BriefTraining`.
        drop: Likewise.
        survivors: Number of survivors that DEAP's masks are to have. One that comes with another number is warned of, once;
            not where an operator of :mod:`evoprune.operators` gave it that on purpose, or ``sparsity`` is an objective. None:
            any number.
        repair: Mend such masks instead, before they are evaluated, by :func:`evoprune.operators.repair`, with draws that depend
            on the mask alone.

    Raises:
        InputError: A value out of range or an unknown name.
    """

    # no __dict__: Toolbox.register would copy it onto its partial, and every pickled task would carry it
    __slots__ = (
        "_key", "_payload", "_said", "brief", "copied", "divisors", "known", "objectives", "problem", "repair", "survivors",
    )  # fmt: skip

    def __init__(
        self,
        problem: Problem,
        *,
        fitness: str | Sequence[str] = "magnitude",
        epochs: int = 2,
        engine: str = "module",
        threads: int = 1,
        chunk_size: int = 8,
        seed: int | None = None,
        dissipation: Dissipation | None = None,
        evidence: float = 0.0,
        drop: str = "absolute",
        survivors: int | None = None,
        repair: bool = False,
    ) -> None:
        for name, value, least in (("fitness_epochs", epochs, 0), ("threads", threads, 1), ("chunk_size", chunk_size, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}; expected an integer of at least {least}.")
        if epochs > problem.recipe.epochs:
            raise InputError(
                f"fitness_epochs is {epochs}, but the recipe has {problem.recipe.epochs} epochs; a brief training is "
                f"the first part of the full one, so expected at most that."
            )
        if not 0 <= evidence <= 1:
            raise InputError(f"evidence is {evidence}; expected a fraction of the survivors, from 0 to 1.")
        look_up("drop", drop, dict.fromkeys((*MOVEMENTS, MAGNITUDE), True))
        engines.require(engine, problem)
        order = seeds.integer(problem.seed if seed is None else seed, "order")
        self.problem = problem
        self.objectives = find_objectives(fitness, problem)
        if repair and survivors is None:
            raise InputError("repair is True, but survivors is None; expected the number to which masks are repaired.")
        if epochs == 0:
            self._require_untrained(fitness, evidence, drop)
        self.survivors, self.repair = survivors, repair
        self.brief = BriefTraining(epochs, order, engine, threads, chunk_size, dissipation, evidence, drop, self.terms)
        self.known: dict[str, Evaluation] = {}
        self.divisors: dict[str, float] = {}
        self._payload: bytes | None = None
        self._key = ""
        self.copied = False  # made in another process from a pickle
        self._said = False

    def _require_untrained(self, fitness: str | Sequence[str], evidence: float, drop: str) -> None:
        """Refuses what untrained networks do not have."""
        if "gradient" in self.terms:
            raise InputError(
                f"fitness is {fitness!r} with fitness_epochs 0, but untrained networks have no accumulated gradient; take "
                f"loss, accuracy or magnitude, or fitness_epochs of at least 1."
            )
        if evidence and drop in ("absolute", "relative"):
            raise InputError(
                f"drop is {drop!r} with fitness_epochs 0, but untrained weights have not moved; take drop='magnitude', or "
                f"fitness_epochs of at least 1."
            )

    def resume(self, known: Mapping[str, Evaluation], divisors: Mapping[str, float], threads: int, engine: str) -> None:
        """Goes on from what a run has recorded.

        Args:
            known: Evaluations of earlier generations by mask hash.
            divisors: Divisors of the fitness; empty where it was not calibrated yet.
            threads: The run's threads.
            engine: The run's engine.
        """
        self.known, self.divisors = dict(known), dict(divisors)
        self.brief = replace(self.brief, threads=threads, engine=engine)

    @property
    def terms(self) -> tuple[str, ...]:
        """What the objectives are made of."""
        return tuple(dict.fromkeys(term for objective in self.objectives for term in objective.terms))

    def __call__(self, mask: Mask) -> tuple[float, ...]:
        """Returns the fitness of one mask, as DEAP wants it.

        The mask is given its evidence, which also comes with the values: out of another process, where a mask is a copy, they
        bring it to the mask whose fitness they become.

        Raises:
            InputError: The fitness has several terms and no population was evaluated yet; or a mask that is to be repaired is
                a copy in another process.
        """
        require_main_guard()
        if not isinstance(mask, Mask):
            raise InputError(f"an individual is {type(mask).__name__}; expected ep.Mask, as toolbox.individual makes them.")
        mask.require(self.problem.shapes)
        if not self.divisors:
            for objective in self.objectives:
                objective.require_divisors({})
        self.check_survivors([mask], in_place=not (self.copied or is_forked()))
        if mask.hash not in self.known:
            self.known[mask.hash] = evaluate_chunk(self.problem, [mask], self.brief)[0]
        return self.rate(mask, self.known[mask.hash])

    def rate(self, mask: Mask, evaluation: Evaluation) -> tuple[float, ...]:
        """Gives a mask its evidence, and returns its fitness: after a failure the worst there is under the mask's weights."""
        mask.evidence = evaluation.evidence
        values = self.values(evaluation)
        if evaluation.has_failed:
            weights = chain(mask.fitness.weights, repeat(1.0))
            return tuple(-value if weight < 0 else value for value, weight in zip(values, weights, strict=False))
        if evaluation.evidence is None:
            return values
        bringing = Values(values)
        bringing.evidence = evaluation.evidence
        return bringing

    def check_survivors(self, masks: Sequence[Mask], in_place: bool = True) -> None:
        """Repairs masks that have another number of survivors than they should, or warns of the first.

        Args:
            masks: The masks, which a repair changes.
            in_place: They are the population's own, not copies in another process.

        Raises:
            InputError: They are copies, which it is of no use to repair.
        """
        if self.survivors is None or (SPARSITY in self.terms and not self.repair):
            return
        for mask in masks:
            expected, found = self.survivors if mask.meant is None else mask.meant, mask.survivors
            if found == expected:
                continue
            if self.repair and not in_place:
                raise InputError(
                    f"a mask has {found:,} survivors in place of {expected:,}, and to repair it here is of no use, for this "
                    f"process has a copy; decorate mate and mutate with ep.operators.keep_survivors(rng=...), or take the "
                    f"toolbox's own map with workers=."
                )
            if self.repair:
                repair(mask, rng=np.random.default_rng(int(mask.hash, 16)), survivors=expected)
            elif not self._said:
                self._said = True
                # from a process that makes its evaluator anew for every call always the same words, which Python says once
                has = "another number of survivors" if self.copied else f"{found:,} survivors"
                warn_in_spite_of_blanket_filters(
                    f"a mask with {has} is evaluated, where {expected:,} were expected: an operator does not keep the number. "
                    f"Take those of ep.operators, decorate yours with ep.operators.keep_survivors(rng=...), or repair=True.",
                    SurvivorsWarning,
                    stacklevel=3,
                )

    def evaluate(
        self,
        masks: Iterable[Mask],
        workers: Workers,
        on_result: Callable[[list[Evaluation]], None] | None = None,
        recorded: Mapping[str, Evaluation] | None = None,
    ) -> list[Evaluation]:
        """Evaluates a population, each distinct mask once, and calibrates the fitness if it is the first one.

        Args:
            masks: The population.
            workers: Who evaluates; see :mod:`evoprune.workers.choose`.
            on_result: Called with evaluations as they finish, before anything uses them.
            recorded: What an interrupted call for the same masks has finished, by mask hash.

        Returns:
            One evaluation a mask, in the order of the masks.
        """
        require_main_guard()
        masks, recorded = list(masks), recorded or {}
        for mask in masks:
            mask.require(self.problem.shapes)
        hashes = [mask.hash for mask in masks]
        new = [(h, mask) for h, mask in dict(zip(hashes, masks, strict=True)).items() if h not in self.known]
        chunks = []
        # a chunk that was not finished is evaluated whole: under some engines company changes the last bits
        for chunk in split(new, self.brief.chunk):
            if all(h in recorded and self.is_whole(recorded[h]) for h, _ in chunk):
                self.known.update({h: recorded[h] for h, _ in chunk})
            else:
                chunks.append([mask for _, mask in chunk])
        for evaluations in workers(self, chunks):
            if on_result is not None:
                on_result(evaluations)
            for e in evaluations:
                self.known[e.mask] = replace(recorded[e.mask], evidence=e.evidence) if e.mask in recorded else e
        found = [self.known[h] for h in hashes]
        usable = [evaluation.values for evaluation in found if not evaluation.has_failed]
        if not self.divisors and usable:
            self.divisors = {term: divisor for o in self.objectives for term, divisor in o.calibrate(usable).items()}
        return found

    def is_whole(self, evaluation: Evaluation) -> bool:
        """Tells whether a recorded evaluation has the evidence that is asked for."""
        return not self.brief.evidence or evaluation.evidence is not None or evaluation.has_failed

    def values(self, evaluation: Evaluation) -> tuple[float, ...]:
        """Returns the fitness that an evaluation amounts to, one number an objective; -inf for a failure."""
        if evaluation.has_failed:
            return (FAILED,) * len(self.objectives)
        return tuple(objective.value(evaluation.values, self.divisors) for objective in self.objectives)

    def identify(self) -> dict[str, str]:
        """Returns what the problem, and the fitness terms of the user's own, are identified by.

        Raises:
            InputError: They hold something that cannot be identified.
        """
        return {**self.problem.identify(), **self.identify_terms()}

    def identify_terms(self) -> dict[str, str]:
        """Returns what the fitness terms of the user's own are identified by, as far as the fitness is made of them."""
        return {name: found.digest for name, found in self._identified_terms().items()}

    @property
    def texts(self) -> dict[str, str]:
        """The text of each piece of the user's code, for workers that it reaches without its source."""
        terms = {key: text for found in self._identified_terms().values() for key, text in found.texts.items()}
        return {**self.problem.texts, **terms}

    def _identified_terms(self) -> dict[str, Identified]:
        own = {f"fitness {name}": term for name, term in registered_terms().items() if name in self.terms}
        return {name: identify(name, term, self.problem.options.ignore) for name, term in own.items()}

    @property
    def key(self) -> str:
        """What workers know problem and terms by: their hash, and a name of this evaluator's own, whatever else they hold."""
        now = hash_of(self.identify())
        if self._key.rpartition(":")[2] != now:  # at first, or since a global that it reads has changed
            self._key, self._payload = f"{uuid.uuid4().hex}:{now}", None
        return self._key

    @property
    def payload(self) -> bytes:
        """The pickled problem with what it is identified by, for a worker that does not have it yet."""
        if self._payload is None:
            identified = self.identify()
            try:
                problem = pickle.dumps(self.problem)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"the problem cannot be sent to workers: {error}. Define its module, function and loss at the top of a "
                    f"file, not inside a function."
                ) from error
            self._payload = pickle.dumps((versions(), identified, problem))
        return self._payload

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in ("objectives", "brief", "divisors", "survivors", "repair")}
        return _unpickle, (self.key, self.payload, state)


def find_objectives(fitness: str | Sequence[str], problem: Problem) -> tuple[FitnessFunction, ...]:
    """Returns the fitness functions of a name, or of several.

    Raises:
        InputError: No name, an unknown one, one twice, or accuracy where it is not defined.
    """
    names = (fitness,) if isinstance(fitness, str) else tuple(fitness)
    if not names or len(set(names)) < len(names):
        raise InputError(f"fitness is {fitness!r}; expected a name, or different names for several objectives.")
    objectives = tuple(look_up("fitness", name, FITNESS) for name in names)
    if not problem.is_classification and any(ACCURACY in objective.terms for objective in objectives):
        raise InputError(f"fitness is {fitness!r}, but accuracy is defined for classification only; take loss.")
    return objectives


def _unpickle(key: str, payload: bytes, state: Mapping[str, Any]) -> Evaluator:
    problem = recall(key, payload)
    assert problem is not None
    evaluator = Evaluator.__new__(Evaluator)  # what it was made of was checked
    for name, value in state.items():
        setattr(evaluator, name, value)
    evaluator.problem, evaluator._key, evaluator._payload = problem, key, payload
    evaluator.known, evaluator.copied, evaluator._said = {}, True, False
    return evaluator
