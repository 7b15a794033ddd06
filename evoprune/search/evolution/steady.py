"""Steady-state evolution: children are bred as soon as a worker is free, from the masks that have arrived by then.

Which masks arrive first depends on the machine, and so do the children. The order of arrivals decides everything else, and is
recorded in ``evaluations.csv``: a run that was interrupted repeats the arrivals that are on disk, and continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields

from deap import base

from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import Evaluation
from evoprune.masks.mask import Mask
from evoprune.search.evolution.lineage import enter
from evoprune.search.evolution.options import Evolution
from evoprune.search.evolution.state import State
from evoprune.search.evolution.survival import improve, reason_to_stop, replace
from evoprune.search.evolution.variation import vary
from evoprune.search.generations import log_generation
from evoprune.search.session import Session

# After so many draws without a new child, no more are bred.
MOST_DRAWS = 100


@dataclass
class Steady:
    """A steady-state evolution.

    Attributes:
        state: The state; ``state.pending`` has the chunks that are being evaluated.
        session: The session, whose journal records arrivals before they are used.
        operators: A toolbox with ``mate``, ``mutate`` and ``select``.
        evolution: The options; ``offspring`` arrivals make a generation.
        slots: Chunks that are evaluated at a time.
        arrived: Masks that have arrived since the generation before.
    """

    state: State
    session: Session
    operators: base.Toolbox
    evolution: Evolution
    slots: int
    arrived: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.evaluator, self.size = self.session.evaluator, self.session.evaluator.job.chunk
        pending = [(mask, chunk) for chunk in self.state.pending for mask in chunk]
        self.waiting = {mask.hash: (mask, chunk) for mask, chunk in pending if not mask.fitness.valid}
        starts, *evaluated = self.state.logbook.select("nevals")
        most = self.evolution.generations * self.evolution.children
        if self.evolution.evaluations is not None:  # in whole generations
            most = min(most, (self.evolution.evaluations - starts) // self.evolution.children * self.evolution.children)
        self.to_breed = most - sum(evaluated) - len(self.waiting)
        self.began = time.perf_counter()

    def states(self, recorded: Sequence[Evaluation]) -> Iterator[State]:
        """Yields a copy of the state after each generation, until one of the limits is reached.

        Args:
            recorded: Arrivals since the state was saved, in their order.
        """
        while self._may_breed() and len(self.state.pending) < self.slots:
            self._breed()
        yield from self._repeat(recorded)
        if reason_to_stop(self.state, self.evolution):
            return
        for evaluations in self.session.run_chunks(self._chunks(), slots=self.slots):
            for state in self._take([evaluation for evaluation in evaluations if evaluation.mask in self.waiting]):
                yield state
                if reason_to_stop(self.state, self.evolution):
                    return
        if self.arrived:  # no more were found
            yield self._end_generation()

    def _repeat(self, recorded: Sequence[Evaluation]) -> Iterator[State]:
        """Lets recorded evaluations arrive again, in their order; yields the state after each generation."""
        for evaluation in recorded:
            complete = self._arrive(self._with_evidence(evaluation))
            if self._is_generation():
                yield self._end_generation()
            if complete and self._may_breed():
                self._breed()

    def _take(self, new: list[Evaluation]) -> Iterator[State]:
        """Records evaluations and lets their masks compete; yields the state after each generation."""
        while new:
            room = self.evolution.children - len(self.arrived)
            competing, new = new[:room], new[room:]  # a chunk may reach into the next generation
            self.session.record(self.state.gen, competing)
            for evaluation in competing:
                self._arrive(evaluation)
            if self._is_generation():
                yield self._end_generation()

    def _chunks(self) -> Iterator[Chunk]:
        """Yields the chunks that were bred before, and then breeds another whenever one is requested."""
        yield from list(self.state.pending)
        while self._may_breed():
            yield from self._breed()

    def _may_breed(self) -> bool:
        return self.to_breed > 0 and not self.state.exhausted

    def _breed(self) -> list[list[Mask]]:
        """Returns a chunk of new children, that are not being evaluated either; if none is found, there are no more."""
        wanted = min(self.size, self.to_breed)
        found: dict[str, Mask] = {}
        for _ in range(MOST_DRAWS):
            for child in vary(self.state, self.operators, replace_fields(self.evolution, offspring=wanted - len(found))):
                mask_hash = child.hash
                if mask_hash not in self.evaluator.known and mask_hash not in self.waiting:
                    found.setdefault(mask_hash, child)
            if len(found) == wanted:
                break
        if not found:
            self.state.exhausted = True
            return []
        children = list(found.values())
        self.state.pending.append(children)
        enter(self.state.lineage, self.state.gen, children)
        self.waiting |= {mask_hash: (child, children) for mask_hash, child in found.items()}
        self.to_breed -= len(children)
        return [children]

    def _with_evidence(self, evaluation: Evaluation) -> Evaluation:
        """Returns a recorded evaluation with its evidence, which is taken again if its file is gone."""
        if self.evaluator.is_whole(evaluation):
            return evaluation
        _, chunk = self.waiting[evaluation.mask]
        again = {e.mask: e.evidence for found in self.session.run_chunks([chunk]) for e in found}
        return replace_fields(evaluation, evidence=again[evaluation.mask])

    def _arrive(self, evaluation: Evaluation) -> bool:
        """Lets a mask that was evaluated compete; returns whether its chunk is complete."""
        mask, chunk = self.waiting.pop(evaluation.mask)
        state, known = self.state, self.evaluator.known
        known[evaluation.mask] = replace_fields(evaluation, evidence=None)
        mask.fitness.values, mask.evidence = self.evaluator.values(evaluation), evaluation.evidence
        state.population = replace(state, [mask], self.operators, self.evolution)
        improve(state, [mask], len(self.evaluator.objectives))
        self.arrived.append(evaluation.mask)
        complete = all(bool(other.fitness.valid) for other in chunk)
        if complete:
            state.pending = [others for others in state.pending if others is not chunk]
        return complete

    def _is_generation(self) -> bool:
        return len(self.arrived) == self.evolution.children

    def _end_generation(self) -> State:
        """Logs the arrivals as a generation, and returns a copy of the state after it."""
        state, now = self.state, time.perf_counter()
        log_generation(state.logbook, state.gen, state.population, state.bests[-1][1], self.evaluator.known, set(self.arrived))
        state.forget_the_dead()
        state.gen += 1
        state.seconds += now - self.began
        self.began, self.arrived = now, []
        return state.copy()
