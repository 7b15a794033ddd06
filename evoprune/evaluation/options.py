"""The options of an evaluator, and the job that they amount to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from evoprune import seeds
from evoprune.engines import check as engines
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError, look_up
from evoprune.evaluation.job import BriefTraining, Job
from evoprune.evaluation.terms import ACCURACY, BUILT_IN_TERMS, FITNESS, TERMS, FitnessFunction, Term
from evoprune.problem.metrics import column
from evoprune.problem.problem import Problem
from evoprune.registry import describe
from evoprune.training.dissipation import MOVEMENTS, Dissipation

# A registered name, or a term of the user's own.
Fitness: TypeAlias = str | Term | FitnessFunction


@dataclass(frozen=True)
class EvaluatorOptions:
    """The keywords of :class:`evoprune.evaluation.evaluator.Evaluator`."""

    fitness: Fitness | Sequence[Fitness] = "magnitude"
    """Name of the fitness, see :data:`evoprune.evaluation.terms.FITNESS`, or a term; several for as many objectives."""
    epochs: int = 2
    """Epochs of the brief training; 0 judges the untrained masked networks, which have no gradients."""
    engine: str = "module"
    """Name of the engine, see :data:`evoprune.engines.registry.ENGINES`."""
    threads: int = 1
    """Threads that torch uses in every evaluating process. Results may differ in their last bits between numbers of threads."""
    chunk_size: int = 8
    """Masks that are evaluated together; never depends on the number of workers."""
    seed: int | None = field(default=None, metadata={"any_size": True})
    """The run's seed; None takes the problem's."""
    dissipation: Dissipation | None = None
    """How survivors are removed during the brief training; None for not at all."""
    evidence: float = 0.0
    """Fraction of the survivors that evidence names; 0 takes none. See :func:`evoprune.evaluation.evidence.take_evidence`."""
    drop: str = "absolute"
    """How evidence ranks survivors: by absolute or relative movement, magnitude, or random."""
    survivors: int | None = None
    """Survivors that masks should have; see :class:`evoprune.evaluation.survivors.SurvivorCheck`. None: any number."""
    inherit: bool = False
    """Take a snapshot of each trained network, from which its children continue."""
    deterministic: bool = True
    """On a GPU, train by deterministic algorithms."""
    repair: bool = False
    """Repair masks with another number before they are evaluated, with draws that depend on the mask alone."""

    def __post_init__(self) -> None:
        least = {"fitness_epochs": (self.epochs, 0), "threads": (self.threads, 1), "chunk_size": (self.chunk_size, 1)}
        for name, (value, at_least) in least.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
                raise InputError(f"{name} is {value!r}; expected an integer of at least {at_least}.")
        if not 0 <= self.evidence <= 1:
            raise InputError(f"evidence is {self.evidence}; expected a fraction of the survivors, from 0 to 1.")
        look_up("drop", self.drop, dict.fromkeys(MOVEMENTS, True))
        if self.repair and self.survivors is None:
            raise InputError("repair is True, but survivors is None; expected the number to which masks are repaired.")


def make_job(
    problem: Problem, options: EvaluatorOptions, objectives: Sequence[FitnessFunction], own: Mapping[str, Term]
) -> Job:
    """Returns the job that options amount to.

    Args:
        problem: The problem.
        options: The options.
        objectives: The fitness functions.
        own: The user's own terms that they are made of.

    Raises:
        InputError: A value out of range, or an unknown name.
    """
    if options.epochs > problem.recipe.epochs:
        raise InputError(
            f"fitness_epochs is {options.epochs}, but the recipe has {problem.recipe.epochs} epochs; a brief training is "
            f"the first part of the full one, so expected at most that."
        )
    engines.require(options.engine, problem)
    order = seeds.integer(problem.seed if options.seed is None else options.seed, "order")
    if options.epochs == 0:
        _require_untrained(options, terms_of(objectives))
    brief = BriefTraining(
        epochs=options.epochs,
        seed=order,
        engine=options.engine,
        threads=options.threads,
        chunk_size=options.chunk_size,
        dissipation=options.dissipation,
        evidence=options.evidence,
        drop=options.drop,
        inherit=options.inherit,
        deterministic=options.deterministic,
    )
    return Job(problem, brief, own, ENGINES.own.get(options.engine))


def find_objectives(
    fitness: Fitness | Sequence[Fitness], problem: Problem
) -> tuple[tuple[FitnessFunction, ...], dict[str, Term]]:
    """Returns the fitness functions of a name or a term, or of several, and the user's own terms that they are made of.

    Raises:
        InputError: No name, an unknown one, one twice, or accuracy for a regression.
    """
    given = tuple(fitness) if isinstance(fitness, Sequence) and not isinstance(fitness, str) else (fitness,)
    functions = {f"own.{describe(each)}": each for each in given if callable(each)}
    made = {each.name: each for each in given if isinstance(each, FitnessFunction)}
    names = [f"own.{describe(each)}" if callable(each) else str(getattr(each, "name", each)) for each in given]
    if not names or len(set(names)) < len(names):
        raise InputError(f"fitness is {fitness!r}; expected a name, or different names for several objectives.")
    known = {**FITNESS, **made, **{name: FitnessFunction(name, (name,)) for name in functions}, **_of_metrics(problem)}
    for name in names:
        if name.startswith("metric:") and name not in known:
            raise InputError(f"fitness is {name!r}, but the problem has no such metric; add it to metrics (--metrics).")
    objectives = tuple(look_up("fitness", name, known) for name in names)
    if not problem.is_classification and ACCURACY in terms_of(objectives):
        raise InputError(f"fitness is {fitness!r}, but accuracy is defined for classification only; take loss.")
    for name in terms_of(objectives):
        if name in TERMS and name in map(column, problem.metrics):
            raise InputError(f"fitness term {name!r} has the name of a metric's column; register it under another name.")
    terms = {**TERMS, **functions}
    return objectives, {name: terms[name] for name in terms_of(objectives) if name in terms and name not in BUILT_IN_TERMS}


def _of_metrics(problem: Problem) -> dict[str, FitnessFunction]:
    """Returns the fitness ``metric:NAME`` of each of the problem's metrics: its value on the validation set, or minus it."""
    signs = {name: 1.0 if metric.larger_is_better else -1.0 for name, metric in problem.metrics.items()}
    return {f"metric:{name}": FitnessFunction(f"metric:{name}", (column(name),), sign) for name, sign in signs.items()}


def terms_of(objectives: Sequence[FitnessFunction]) -> tuple[str, ...]:
    """Returns the names of the terms that objectives are made of."""
    return tuple(dict.fromkeys(term for objective in objectives for term in objective.terms))


def _require_untrained(options: EvaluatorOptions, terms: Sequence[str]) -> None:
    """Refuses a fitness or evidence that untrained networks do not have."""
    if "gradient" in terms:
        raise InputError(
            f"fitness is {options.fitness!r} with fitness_epochs 0, but untrained networks have no accumulated gradient; take "
            f"loss, accuracy or magnitude, or fitness_epochs of at least 1."
        )
    if options.evidence and options.drop in ("absolute", "relative"):
        raise InputError(
            f"drop is {options.drop!r} with fitness_epochs 0, but untrained weights have not moved; take drop='magnitude', or "
            f"fitness_epochs of at least 1."
        )
