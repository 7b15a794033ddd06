"""Evaluator: from masks to fitness, through brief training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import Any, TypeAlias

from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.chunks import Chunk, split
from evoprune.evaluation.evaluation import Evaluation, key_of
from evoprune.evaluation.job import BriefTraining, Job
from evoprune.evaluation.options import EvaluatorOptions, find_objectives, make_job, terms_of
from evoprune.evaluation.survivors import SurvivorCheck
from evoprune.evaluation.terms import FAILED, SPARSITY
from evoprune.masks.mask import Mask, Values
from evoprune.options import make
from evoprune.problem.problem import Problem
from evoprune.system.forks import is_forked
from evoprune.system.importing import require_main_guard

# Evaluates chunks of masks somewhere, and yields evaluations as they finish.
RunChunks: TypeAlias = Callable[[Job, list[Chunk]], Iterable[list[Evaluation]]]


def run_here(job: Job, chunks: Iterable[Chunk]) -> Iterator[list[Evaluation]]:
    """Evaluates chunks in this process."""
    return (evaluate_chunk(job, chunk) for chunk in chunks)


class Evaluator:
    """Fitness of masks, for one problem and one brief training.

    As a function of a mask it is what DEAP calls ``evaluate``: it returns a tuple with the fitness, -inf for a failure.
    An evaluation is deterministic, so a mask is evaluated once.

    Args:
        problem: The problem.
        options: See :class:`evoprune.evaluation.options.EvaluatorOptions`.

    Attributes:
        job: The job that workers are given.
        objectives: The fitness functions.
        known: Evaluations by the masks' keys.
        divisors: Divisors of the fitness's terms; empty until it is calibrated.

    Raises:
        InputError: A value out of range or an unknown name.
    """

    # no __dict__: Toolbox.register would copy it onto its partial, and every pickled task would carry it
    __slots__ = ("check_survivors", "divisors", "job", "known", "objectives")

    def __init__(self, problem: Problem, **options: Any) -> None:
        given = make(EvaluatorOptions, options)
        self.objectives, own = find_objectives(given.fitness, problem)
        self.job = make_job(problem, given, self.objectives, own)
        survivors = None if SPARSITY in self.terms and not given.repair else given.survivors
        self.check_survivors = SurvivorCheck(survivors, given.repair)
        self.known: dict[str, Evaluation] = {}
        self.divisors: dict[str, float] = {}

    @property
    def problem(self) -> Problem:
        """The problem."""
        return self.job.problem

    @property
    def brief(self) -> BriefTraining:
        """The brief training."""
        return self.job.brief

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that the objectives are made of."""
        return terms_of(self.objectives)

    def resume(
        self,
        known: Mapping[str, Evaluation],
        divisors: Mapping[str, float],
        threads: int,
        engine: str,
        deterministic: bool | None = None,
    ) -> None:
        """Continues from the records of a run.

        Args:
            known: Evaluations of earlier generations by mask hash.
            divisors: Divisors of the fitness; empty if it was not calibrated yet.
            threads: The run's threads.
            engine: The run's engine.
            deterministic: Whether it trains by deterministic algorithms on a GPU; None keeps the choice.
        """
        self.known, self.divisors = dict(known), dict(divisors)
        chosen = self.brief.deterministic if deterministic is None else deterministic
        brief = replace(self.brief, threads=threads, engine=engine, deterministic=chosen)
        self.job = replace(self.job, brief=brief, own_engine=ENGINES.own.get(engine))

    def __call__(self, mask: Mask) -> tuple[float, ...]:
        """Returns the fitness of one mask, as DEAP wants it.

        The mask is given its evidence, which also comes with the values: from another process, which has a copy of the mask,
        they bring it to the mask whose fitness they become.

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
        self.check_survivors([mask], in_place=not (self.check_survivors.copied or is_forked()))
        key = key_of(mask, self.brief.inherit)
        if key not in self.known:
            self.known[key] = evaluate_chunk(self.job, [mask])[0]
        return self.rate(mask, self.known[key])

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

    def evaluate(
        self,
        masks: Iterable[Mask],
        run_chunks: RunChunks = run_here,
        on_result: Callable[[list[Evaluation]], None] | None = None,
        recorded: Mapping[str, Evaluation] | None = None,
    ) -> list[Evaluation]:
        """Evaluates a population, each distinct mask once, and calibrates the fitness if it is the first one.

        Args:
            masks: The population.
            run_chunks: Evaluates chunks, in this process or on workers.
            on_result: Called with evaluations as they finish, before anything uses them.
            recorded: Evaluations that an interrupted call for the same masks has finished, by the masks' keys.

        Returns:
            One evaluation a mask, in the order of the masks.
        """
        require_main_guard()
        masks, recorded = list(masks), recorded or {}
        for mask in masks:
            mask.require(self.problem.shapes)
        keys = [key_of(mask, self.brief.inherit) for mask in masks]
        for evaluations in run_chunks(self.job, self._chunks(dict(zip(keys, masks, strict=True)), recorded)):
            if on_result is not None:
                on_result(evaluations)
            for e in evaluations:
                earlier = recorded.get(e.mask)
                self.known[e.mask] = e if earlier is None else replace(earlier, evidence=e.evidence, snapshot=e.snapshot)
        found = [self.known[key] for key in keys]
        usable = [evaluation.values for evaluation in found if not evaluation.has_failed]
        if not self.divisors and usable:
            self.divisors = {term: divisor for o in self.objectives for term, divisor in o.calibrate(usable).items()}
        return found

    def _chunks(self, masks: Mapping[str, Mask], recorded: Mapping[str, Evaluation]) -> list[Chunk]:
        """Returns the chunks that are to be evaluated, and knows those that are recorded."""
        new = [(h, mask) for h, mask in masks.items() if h not in self.known]
        chunks: list[Chunk] = []
        # a chunk that was not finished is evaluated whole: under some engines company changes the last bits
        for chunk in split(new, self.job.chunk):
            if all(h in recorded and self.is_whole(recorded[h]) for h, _ in chunk):
                self.known.update({h: recorded[h] for h, _ in chunk})
            else:
                chunks.append([mask for _, mask in chunk])
        return chunks

    def is_whole(self, evaluation: Evaluation) -> bool:
        """Tells whether a recorded evaluation has the evidence and the snapshot that the brief training takes."""
        lacks_evidence = self.brief.evidence and evaluation.evidence is None
        lacks_snapshot = self.brief.inherit and evaluation.snapshot is None
        return evaluation.has_failed or not (lacks_evidence or lacks_snapshot)

    def values(self, evaluation: Evaluation) -> tuple[float, ...]:
        """Returns the fitness that an evaluation amounts to, one number an objective; -inf for a failure."""
        if evaluation.has_failed:
            return (FAILED,) * len(self.objectives)
        return tuple(objective.value(evaluation.values, self.divisors) for objective in self.objectives)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.job, self.objectives, self.divisors, self.check_survivors)


def _unpickle(job: Job, objectives: Any, divisors: dict[str, float], check: SurvivorCheck) -> Evaluator:
    evaluator = Evaluator.__new__(Evaluator)  # its options were checked
    evaluator.job, evaluator.objectives, evaluator.divisors = job, objectives, divisors
    evaluator.known, evaluator.check_survivors = {}, replace(check, copied=True)
    return evaluator
