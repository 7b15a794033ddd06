"""Evolution as a method."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from typing import Any

from deap import base, tools

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import MUTATIONS
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.course import run
from evoprune.search.evolution import checkpoint
from evoprune.search.evolution.bests import train_bests
from evoprune.search.evolution.check import require
from evoprune.search.evolution.cost import cost_of
from evoprune.search.evolution.lineage import enter, write_lineage
from evoprune.search.evolution.options import Evolution
from evoprune.search.evolution.starts import first_masks, given_masks, own_starts
from evoprune.search.evolution.state import State
from evoprune.search.evolution.steady import Steady
from evoprune.search.evolution.survival import improve, make_hall_of_fame, reason_to_stop, replace
from evoprune.search.evolution.variation import register_operators, vary
from evoprune.search.final import Plan
from evoprune.search.generations import log_generation
from evoprune.search.history import History
from evoprune.search.method import Cost
from evoprune.search.options import SearchOptions
from evoprune.search.report import describe_cost, describe_failures
from evoprune.search.session import Session
from evoprune.system.signals import save_on_signals
from evoprune.training.final import FinalTraining

# Children whose breeding takes long enough to be said.
MANY = 10_000


@dataclass(frozen=True)
class EvolveOptions(SearchOptions):
    """Options of an evolution as a method."""

    fitness: tuple[str, ...] = ("loss",)  # type: ignore[assignment]
    """Score of a brief training: loss (minus the validation loss), accuracy (on the validation set), magnitude (sum over the
    survivors of |w|), gradient (sum over the last epoch's steps and the survivors of |g|), combined (both, each divided by its
    mean over the first generation), sparsity, or a fitness that you registered. Several names are as many objectives, such as
    accuracy and sparsity (with the mutation sparsity), all maximised (NSGA-II, Deb et al. 2002); the fittest is then the mask
    of the Pareto front with the largest first objective."""
    fitness_epochs: int = 1
    """Epochs of the brief training: the first of --epochs. 0 judges untrained networks, by loss, accuracy or magnitude."""
    restart: bool = False
    """Train the fittest mask from the initial weights with another order of the batches, instead of continuing its brief
    training."""
    controls: bool = True
    """Also train the fittest mask of the first generation, which k-starts would have chosen (if sparsity rises, of the first
    generation at the final sparsity)."""
    trained_bests: int = 8
    """Number of the generations' fittest masks that are trained fully, too, for the figure of accuracy against fitness; none
    with --inherit."""
    chunk_size: int = 8
    """Masks that are trained together, if the engine can."""
    evolution: Evolution = field(default_factory=Evolution)
    """Operators, selection, first generation, and when to stop."""
    callbacks: tuple[Any, ...] = field(default=(), metadata={"flag": False})
    """Called after each generation; see :class:`evoprune.Callback`."""


class Evolve:
    """Evolution: sparse masks over generations, by mutation, crossover and selection; the fittest is trained fully.

    Args:
        session: The session.
        options: The options.
    """

    Options = EvolveOptions

    def __init__(self, session: Session, options: EvolveOptions) -> None:
        self.session, self.options, self.evolution = session, options, evolution_of(options, session.problem)
        problem, objectives = session.problem, len(session.evaluator.objectives)
        self.operators = base.Toolbox()
        variation = session.generator("variation")
        register_operators(self.operators, self.evolution, options.sparsity, objectives, variation)
        begin = self.evolution.begin(options.sparsity)
        given = given_masks(problem, self.evolution, begin)
        self.starts = first_masks(session, self.evolution, given, begin, options.layer_densities)
        self._saving = False
        self._children: list[Mask] = []
        self.state = self._last_state()
        self._write_tables()  # a kill may have come before they were written

    @property
    def finished(self) -> bool:
        """Whether one of the limits is reached."""
        return bool(reason_to_stop(self.state, self.evolution))

    def ask(self) -> list[Mask]:
        """Returns the children of the next generation that have no fitness yet; at first, the first masks."""
        self._began = time.perf_counter()
        self._next = self.state.copy()  # the state stays as it was, so that it can be saved at any time
        self._children, self._earlier = list(self.starts.masks), set(self.session.evaluator.known)
        if self._next.gen:
            if self.evolution.children >= MANY:
                self.session.say(f"breeding {self.evolution.children:,} children")
            self._children = vary(self._next, self.operators, self.evolution, self._rising)
        return [child for child in self._children if not child.fitness.valid]

    def tell(self, masks: Sequence[Mask]) -> None:
        """Lets the children compete with their parents, and logs the generation.

        Args:
            masks: The masks of the last :meth:`ask`, with their fitness.
        """
        state, evaluator = self._next, self.session.evaluator
        gen, rising = state.gen, self._rising
        bare = [mask for mask in masks if mask.evidence is None]
        living = {mask.hash: mask.evidence for mask in state.population} if bare else {}
        for mask in bare:
            mask.evidence = living.get(mask.hash)
        inherits = self.evolution.inherit
        if rising is not None or inherits:
            state.population = []
            state.hall_of_fame.clear()
        if rising is not None:
            state.bests.clear()
        state.population = replace(state, self._children, self.operators, self.evolution)
        improve(state, self._children, len(evaluator.objectives), anew=inherits)
        new = set(evaluator.known) - self._earlier
        log_generation(state.logbook, gen, state.population, state.bests[-1][1], evaluator.known, new)
        # a resumed run does not have the evidence of evaluations before it, so only the living keep theirs
        evaluator.known |= {key: replace_fields(evaluator.known[key], evidence=None, snapshot=None) for key in new}
        enter(state.lineage, gen, self._children)
        state.forget_the_dead()
        state.gen += 1
        state.seconds += time.perf_counter() - self._began
        self._enter(state)

    @property
    def _rising(self) -> int | None:
        """Survivors of the next generation while sparsity rises: denser masks no longer count. None otherwise."""
        return self.evolution.survivors_at(self.state.gen, self.options.sparsity, self.session.problem.prunable_count)

    def drive(self) -> History:
        """Makes generations until one of the limits is reached."""
        session, evolution = self.session, self.evolution
        total = evolution.generations + 1
        with save_on_signals(self.save), session.bar(total, "generations", initial=self.state.gen, unit="gen") as self._bar:
            while not self.finished and not (evolution.steady_state and self.state.gen):
                first = not self.state.gen or self._rising is not None or evolution.inherit
                masks = self.ask()
                evaluations = session.evaluate(masks, self.state.gen)
                if first:
                    session.require_a_survivor(evaluations)
                self.tell(masks)
            if not self.finished:
                slots = session.journal.keep("slots", lambda: evolution.slots or session.count_workers())
                steady = Steady(self.state.copy(), session, self.operators, evolution, slots)
                for state in steady.states(session.journal.arrivals(self.state.gen)):
                    self._enter(state)
        state = self.state
        return History(state.logbook, state.population, list(state.hall_of_fame))

    def _enter(self, state: State) -> None:
        """Lets a state take the place of the one before: saved, written, shown, and passed to the callbacks."""
        self.state = state
        self.save()
        self._write_tables()
        if self.session.execution.progress:
            # without the lines above the header that DEAP leaves for the names of chapters
            self.session.say("\n".join(line for line in state.logbook.stream.splitlines() if line.strip()))
            self._bar.set_postfix_str(f"best {state.logbook[-1]['best']:.5g}")
            self._bar.update()
        for callback in self.options.callbacks:
            callback.on_generation(state)

    def _write_tables(self) -> None:
        self.session.record_generations(self.state.logbook)
        write_lineage(self.session.journal, self.state.lineage)

    def save(self) -> None:
        """Saves the state. Does nothing while it is being saved, as when a signal comes just then."""
        if self._saving:
            return
        self._saving = True
        try:
            checkpoint.save_state(self.session.journal, self.state)
        finally:
            self._saving = False

    def _last_state(self) -> State:
        """Returns the last checkpoint's state, or a new one; the evaluator is told the evaluations before it."""
        session = self.session

        def empty() -> tools.HallOfFame:
            return make_hall_of_fame(self.evolution, len(session.evaluator.objectives))

        state = checkpoint.load_state(session.journal, session.problem.shapes, empty)
        if state is None:
            selection = random.Random(seeds.integer(session.seed, "selection"))
            state = State([], empty(), session.generator("variation"), selection)
        session.evaluator.known = session.journal.known_before(state.gen)
        return state

    @property
    def gen(self) -> int:
        """The generation that comes next."""
        return self.state.gen

    @property
    def best(self) -> Mask | None:
        """The fittest mask so far; None before the first generation."""
        return self.state.bests[-1][1] if self.state.bests else None

    def chosen(self) -> dict[str, Mask]:
        """Returns the fittest mask, and as control the fittest of the first generation."""
        bests = self.state.bests
        return {"winner": bests[-1][1]} | ({"start": bests[0][1]} if self.options.controls else {})

    def report(self, history: History, trainings: Mapping[str, FinalTraining]) -> dict[str, Any]:
        """Trains the generations' fittest masks, and returns the cost of the search and its course in numbers."""
        session, state = self.session, self.state
        restart, known, inherits = self.options.restart, session.evaluator.known, self.evolution.inherit
        # a training that may stop early is not compared with those that never do
        apart = restart or session.problem.recipe.stop_patience is not None
        done = {} if apart else {training.mask.hash: training for training in trainings.values()}
        history.bests = [] if inherits else train_bests(session, state, self.options.trained_bests, done)
        return {
            "k": self.evolution.k,
            "generations": state.gen - 1,
            "evaluations": len(known),
            "stopped_by": reason_to_stop(state, self.evolution),
            "hall_of_fame": len(state.hall_of_fame),
            **describe_cost(session, restart, trainings["winner"], self.starts.spent, state.bests[-1][1]),
            **describe_failures(known.values()),
        }

    @staticmethod
    def evaluator(problem: Problem, options: EvolveOptions) -> dict[str, Any]:
        """Returns the sparsity of the first masks, and how much evidence an evaluation takes."""
        evolution = evolution_of(options, problem)
        begin, evidence = evolution.begin(float(options.sparsity)), evolution.evidence(options.sparsity)
        return {"sparsity": begin, "evidence": evidence, "drop": evolution.drop, "inherit": evolution.inherit}

    @staticmethod
    def plan(problem: Problem, options: EvolveOptions) -> Plan:
        """Returns how chosen masks are trained."""
        return Plan(options.restart, chose=True)

    @staticmethod
    def require(problem: Problem, options: EvolveOptions) -> None:
        """Checks the options.

        Raises:
            InputError: A value out of range, an unknown name, or values that do not go together.
        """
        evolution, names = evolution_of(options, problem), objectives_of(options)
        require(evolution, float(options.sparsity), problem.prunable_count, len(names))
        if evolution.inherit and options.fitness_epochs == 0:
            raise InputError("inherit is given with fitness_epochs 0; expected at least 1: a generation trains for so many.")
        if evolution.drop != options.evolution.drop:
            warnings.warn(
                f"networks that are not trained (fitness_epochs 0) have not moved: survivors are dropped by magnitude, and not "
                f"by {options.evolution.drop} movement.",
                stacklevel=5,
            )
        if "sparsity" in names and "sparsity" not in evolution.mutation:
            raise InputError(f"sparsity is an objective, but mutation is {evolution.mutation}; expected sparsity among them.")
        count = options.trained_bests
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(f"trained_bests is {count!r}; expected how many to train, at least 0.")

    @staticmethod
    def settings(problem: Problem, options: EvolveOptions) -> dict[str, Any]:
        """Returns the options as a run records them."""
        evolution = evolution_of(options, problem)
        given = given_masks(problem, evolution, evolution.begin(options.sparsity))
        names = ("layer_densities", "fitness_epochs", "chunk_size", "restart", "controls", "trained_bests")
        return {
            **{name: getattr(options, name) for name in names},
            "sparsity": float(options.sparsity),
            "fitness": objectives_of(options),
            **evolution.to_settings(),
            "given": [mask.hash for mask in given],
        }

    @staticmethod
    def own(options: EvolveOptions) -> dict[str, object]:
        """Returns the user's own operators and starts, by kind and name."""
        evolution = options.evolution
        found: dict[str, object] = {f"mutation {MUTATIONS.name_of(m)}": MUTATIONS.find(m) for m in evolution.mutation}
        found[f"crossover {CROSSOVERS.name_of(evolution.crossover)}"] = CROSSOVERS.find(evolution.crossover)
        known = {*MUTATIONS.values(), *CROSSOVERS.values()} - {*MUTATIONS.own.values(), *CROSSOVERS.own.values()}
        return {**{name: thing for name, thing in found.items() if thing not in known}, **own_starts(evolution)}

    @staticmethod
    def evaluations(problem: Problem, options: EvolveOptions) -> int:
        """Returns the number of evaluations, if every child is new."""
        return evolution_of(options, problem).most_evaluations

    @staticmethod
    def cost(problem: Problem, options: EvolveOptions) -> Cost:
        """Returns the planned cost, at most: children that were there before cost nothing."""
        return cost_of(problem, options.evolution, options.fitness_epochs, options.sparsity, options.restart)


def evolution_of(options: EvolveOptions, problem: Problem) -> Evolution:
    """Returns the options of the evolution; networks that are not trained have not moved, and lose weights by magnitude."""
    evolution = options.evolution.through(problem.recipe.epochs, options.fitness_epochs)
    moved = options.fitness_epochs != 0 or evolution.drop not in ("absolute", "relative")
    return evolution if moved or not evolution.evidence(options.sparsity) else replace_fields(evolution, drop="magnitude")


def objectives_of(options: EvolveOptions) -> list[Any]:
    """Returns the objectives: names, or functions."""
    given: Any = options.fitness
    return [given] if isinstance(given, str) or callable(given) else list(given)


def evolve(problem: Problem, evolution: Evolution | None = None, **options: Any) -> Result:
    """Evolves sparse masks over generations, and trains the fittest fully; k-starts is the first generation.

    ::

        population = random masks, or masks that other methods found
        fitness = briefly train each masked network from W0
        for each generation:
            children = mutants of masks of the population, and crossovers of pairs
            fitness of the children
            population = the fittest k of both
        continue training the fittest mask of all

    Every mask keeps its number of survivors, unless the mutation ``sparsity`` is among the operators. After each generation
    there is a checkpoint, and every evaluation is on disk before it is used. A mask is evaluated once.

    Args:
        problem: The problem; its recipe's epochs include the brief training.
        evolution: Operators, selection, first generation, and when to stop; None makes it from the keywords.
        **options: Fields of :class:`evoprune.search.evolution.evolve.EvolveOptions`, of
            :class:`evoprune.search.execution.Execution`, and, without ``evolution``, of :class:`evoprune.Evolution`.

    Returns:
        The fittest mask, its trained network, hall of fame, last population and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation of the first generation failed, or the winner's final training diverged.
    """
    given = {} if evolution is None else {"evolution": evolution}
    return run("evolve", Evolve, problem, {**given, **options})
