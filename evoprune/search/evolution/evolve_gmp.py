"""Evolution over gradual magnitude pruning as a method: its individuals are courses of pruning."""

from __future__ import annotations

import hashlib
import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from deap import tools

from evoprune import seeds
from evoprune.baselines.random_masks import dense
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError, RunError
from evoprune.evaluation.terms import FAILED
from evoprune.masks.mask import Mask
from evoprune.masks.random import random_mask, survivors_of
from evoprune.options import check_sizes
from evoprune.problem.problem import Problem
from evoprune.runs.checkpoints import Content
from evoprune.search.evolution.check import require_count
from evoprune.search.evolution.courses import Course, breed, make_operators, train_course
from evoprune.search.evolution.lineage import Lineage, Traced, enter, write_lineage
from evoprune.search.final import Plan
from evoprune.search.history import History
from evoprune.search.method import Cost
from evoprune.search.options import SearchOptions
from evoprune.search.report import Spent, describe_cost, describe_failures
from evoprune.search.session import Session
from evoprune.training.final import FinalTraining
from evoprune.training.gradual import Gradual, GradualOptions, changes_in

GENE_COLUMNS = ("gen", "mask", "fitness", "decay_factor", "prune_until")


@dataclass(frozen=True)
class EvolveGmpOptions(SearchOptions):
    """Options of an evolution over gradual magnitude pruning."""

    fitness: str = "loss"
    """Score of a brief training, from W0, of the mask that a course of pruning ends with: loss (minus the validation loss),
    accuracy, or a fitness that you registered."""
    fitness_epochs: int = 5
    """Epochs of that brief training: the first of --epochs."""
    layer_densities: str = "erk"
    """Layer densities of the random masks that courses begin with, if --first-sparsity is above 0: uniform, erk or varied."""
    controls: bool = True
    """Also train the mask of the first course: gradual pruning with the genes as given."""
    k: int = 1
    """Courses that survive into the next generation."""
    starts: int = 2
    """Courses of the first generation: the one with the genes as given, and mutants of it."""
    offspring: int = 1
    """Children in each generation."""
    generations: int = 1
    """Generations after the first."""
    crossover_probability: float = 0.2
    """Probability that a child has two parents, if there are two; the others are mutants."""
    step: float = 1.0
    """Size of a mutation's steps: 1 for a factor of 2 of the weight decay, 0.1 of --prune-until, and factors of 1.2 of
    layers."""
    first_sparsity: float = 0.0
    """Sparsity of the random masks that courses begin with, another one for each of the first generation; 0 begins dense."""
    decay_factor: float = 4.0
    """Factor of --weight-decay while a network is pruned, in the first course. Masks that were found under a stronger decay are
    better when they are trained anew by the recipe."""
    fan_in_power: float = 0.25
    """The factors of layers in the first course: a layer's |w| are multiplied by its fan-in to this power before they are
    compared with other layers'. 0: gradual pruning's own comparison."""
    prune_until: float = 0.5
    """Part of the recipe's epochs in which the sparsity rises, in the first course; from 0.1 to 0.9."""


class EvolveGmp:
    """Evolution over gradual magnitude pruning: an individual is a course of pruning, its fitness that of its mask.

    Args:
        session: The session.
        options: The options.
    """

    Options = EvolveGmpOptions

    def __init__(self, session: Session, options: EvolveGmpOptions) -> None:
        self.session, self.options = session, options
        self.operators = make_operators(options.step)
        for name in ("mate", "mutate"):
            self.operators.register(name, Traced(name, getattr(self.operators, name), mask_of))
        self.stream = random.Random(seeds.integer(session.seed, "selection"))
        self.masks = session.generator("masks")
        self.population: list[Course] = []
        self.gen = 0
        self._children: list[Course] = []
        self._first_mask: Mask | None = None
        self._trained: dict[str, Content] = {}
        self._rows: list[dict[str, Any]] = []
        self._lineage: Lineage = {}

    @property
    def finished(self) -> bool:
        """Whether the last generation was evaluated."""
        return self.gen > self.options.generations

    def ask(self) -> list[Mask]:
        """Trains the courses of the next generation, and returns their masks."""
        options = self.options
        if self.gen:
            pairs = options.crossover_probability
            self._children = breed(self.population, self.operators, options.offspring, pairs, self.stream)
        else:
            self._children = self._first()
        self._train()
        found = self._children if any(course.mask is not None for course in self._children) else self.population
        masks = [course.mask for course in found if course.mask is not None]
        if not masks:
            raise RunError("all courses of pruning diverged; lower lr, or decay_factor.")
        return masks

    def _first(self) -> list[Course]:
        options, problem = self.options, self.session.problem
        fans = np.log2([float(math.prod(shape[1:])) for shape in problem.shapes.values()])
        layers = options.fan_in_power * (fans - fans.mean())
        numbers = [np.log2(options.decay_factor).item(), options.prune_until, *layers.tolist()]
        courses = [Course(numbers, self._start()) for _ in range(options.starts)]
        mutants = breed(courses[:1], self.operators, options.starts - 1, 0.0, self.stream)
        for mutant, course in zip(mutants, courses[1:], strict=True):
            mutant.start = course.start
        return [courses[0], *mutants]

    def _start(self) -> Mask:
        problem, sparsity = self.session.problem, self.options.first_sparsity
        if not sparsity:
            return dense(problem)
        return random_mask(problem.shapes, sparsity, self.masks, self.options.layer_densities)

    def _train(self) -> None:
        """Gives each course the mask that it ends with; those in the journal are read back."""
        session, problem = self.session, self.session.problem
        how = (self.options.sparsity, session.execution.engine, session.order, session.threads)
        tasks = {_name(course): (problem, course.genes, course.start, *how) for course in self._children}
        missing = [name for name in tasks if name not in self._trained and not session.journal.has_step(name)]
        new: dict[str, Content] = {}
        with session.bar(len(tasks), f"courses of generation {self.gen}", unit="course", leave=False) as bar:
            bar.update(len(tasks) - len(missing))
            for i, content in self._run([tasks[name] for name in missing]):
                new[missing[i]] = session.journal.step(missing[i], partial(_as_content, content))
                bar.update()
        for name, task in tasks.items():
            if name not in self._trained:
                self._trained[name] = new.get(name) or session.journal.step(name, partial(_content, task))
        for course in self._children:
            facts, tensors = self._trained[_name(course)]
            course.mask = None if facts["divergence"] else Mask.from_packed(tensors["bits"].numpy(), problem.shapes)

    def _run(self, tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        if self.session.execution.engine in ENGINES.own:  # which workers know by the job of an evaluation only
            return ((i, train_course(*task)) for i, task in enumerate(tasks))
        return self.session.run(train_course, tasks)

    def tell(self, masks: Sequence[Mask]) -> None:
        """Lets the courses compete with their parents.

        Args:
            masks: The masks of the last :meth:`ask`, with their fitness.
        """
        values = {mask.hash: mask.fitness.values for mask in masks}
        for course in self._children:
            mask = course.mask
            course.fitness.values = (FAILED,) if mask is None else values[mask.hash]
            genes = asdict(course.genes)
            layers = zip(self.session.problem.shapes, genes.pop("layer_factors"), strict=True)
            named = {f"factor {name}": factor for name, factor in layers}
            of = "" if mask is None else mask.hash
            self._rows.append({"gen": self.gen, "mask": of, "fitness": course.fitness.values[0], **genes, **named})
        enter(self._lineage, self.gen, (course for course in self._children if course.mask is not None), mask_of)
        write_lineage(self.session.journal, self._lineage)
        factors = [f"factor {name}" for name in self.session.problem.shapes]
        self.session.journal.write_table("genes.csv", [*GENE_COLUMNS, *factors], self._rows)
        self.population = tools.selBest([*self.population, *self._children], self.options.k)
        if not self.gen:
            self._first_mask = self._children[0].mask
        self.gen += 1

    def chosen(self) -> dict[str, Mask]:
        """Returns the mask of the fittest course, and as control that of the first one."""
        best, first = self.population[0].mask, self._first_mask
        assert best is not None, "a course without a mask was fitter than one with a mask"
        return {"winner": best} | ({"start": first} if self.options.controls and first is not None else {})

    def report(self, history: History, trainings: Mapping[str, FinalTraining]) -> dict[str, Any]:
        """Returns the genes of the fittest course, and the cost of the search in numbers."""
        session, facts = self.session, [facts for facts, _ in self._trained.values()]
        spent = Spent(*(math.fsum(each[name] for each in facts) for name in ("epochs", "cost", "seconds")))
        return {
            "k": self.options.k,
            "generations": self.options.generations,
            "genes": asdict(self.population[0].genes),
            **describe_cost(session, self.options.restart, trainings["winner"], spent),
            **describe_failures(session.evaluator.known.values()),
        }

    @staticmethod
    def plan(problem: Problem, options: EvolveGmpOptions) -> Plan:
        """Returns how chosen masks are trained."""
        return Plan(options.restart, chose=True)

    @staticmethod
    def require(problem: Problem, options: EvolveGmpOptions) -> None:
        """Checks the options.

        Raises:
            InputError: A value out of range.
        """
        check_sizes(options)
        if not (isinstance(options.fitness, str) or callable(options.fitness)):
            raise InputError(f"fitness is {options.fitness!r}; expected one name: courses have one objective.")
        for name, least in (("k", 1), ("starts", 1), ("offspring", 1), ("generations", 0)):
            require_count(name, getattr(options, name), least)
        for name in ("step", "decay_factor", "prune_until", "fan_in_power", "crossover_probability"):
            if isinstance(getattr(options, name), bool) or not isinstance(getattr(options, name), (int, float)):
                raise InputError(f"{name} is {getattr(options, name)!r}; expected a number.")
        bounds = {
            "crossover_probability": (0, 1),
            "prune_until": (0.1, 0.9),
            "decay_factor": (1 / 8, 64),
            "fan_in_power": (-1, 1),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(options, name) <= high:
                raise InputError(f"{name} is {getattr(options, name)!r}; expected a number from {low} to {high}.")
        if not options.step > 0:
            raise InputError(f"step is {options.step!r}; expected a number above 0, such as 1.")
        if not problem.recipe.weight_decay:
            warnings.warn(
                "weight_decay is 0, so decay_factor has no effect; a small one, such as 1e-4, gives it one.", stacklevel=5
            )
        survivors_of(options.sparsity, problem.prunable_count)
        Gradual(problem, options.sparsity, GradualOptions(options.first_sparsity, options.prune_until))

    @staticmethod
    def evaluations(problem: Problem, options: EvolveGmpOptions) -> int:
        """Returns the number of evaluations, if every course is new."""
        return options.starts + options.generations * options.offspring

    @staticmethod
    def cost(problem: Problem, options: EvolveGmpOptions) -> Cost:
        """Returns the planned cost, as if all courses had the genes of the first one."""
        gradual = GradualOptions(options.first_sparsity, options.prune_until)
        density, brief = 1 - options.sparsity, options.fitness_epochs
        count = EvolveGmp.evaluations(problem, options)
        whole = Gradual.cost(problem, options.sparsity, gradual)

        def cost(epochs: int) -> float:
            if epochs < max(1, brief):
                return float("inf")
            rest = epochs - changes_in(problem, epochs, None, options.prune_until)
            return count * (whole(epochs) - rest * density) + ((count - (not options.restart)) * brief + epochs) * density

        return cost


def mask_of(course: Course) -> str:
    """Returns the hash of the mask that a course ends with; empty if training diverged."""
    return "" if course.mask is None else course.mask.hash


def _content(task: tuple[Any, ...]) -> Content:
    return _as_content(train_course(*task))


def _as_content(trained: tuple[dict[str, Any], bytes]) -> Content:
    facts, bits = trained
    return facts, {"bits": torch.from_numpy(np.frombuffer(bits, np.uint8).copy())}


def _name(course: Course) -> str:
    """Returns the name of the step in which a course is trained."""
    text = json.dumps([asdict(course.genes), course.start.hash])
    return f"course-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
