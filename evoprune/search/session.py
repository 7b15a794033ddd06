"""The session of a search: all that it works with, made once and handed down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from deap import tools

from evoprune import seeds
from evoprune.errors import RunError
from evoprune.evaluation.chunks import Chunk
from evoprune.evaluation.evaluation import MACHINE_FAILURE, Evaluation
from evoprune.evaluation.evaluator import Evaluator
from evoprune.loggers.running import Loggers
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.journal import Journal
from evoprune.search.execution import Execution
from evoprune.search.generations import write_generations
from evoprune.system import terminal
from evoprune.training.determinism import call_deterministically
from evoprune.workers.base import Lost, Returned, Workers
from evoprune.workers.policy import evaluate
from evoprune.workers.policy import run as run_tasks
from evoprune.workers.serial import Serial

T = TypeVar("T")
# if there are more workers, the progress bar does not list them one by one
NAMED_WORKERS = 4


@dataclass(frozen=True)
class Evaluating:
    """The means by which masks are evaluated.

    Attributes:
        evaluator: Makes fitness of evaluations, and knows the earlier ones.
        workers: The processes that evaluate; None where the fitness is told by others.
    """

    evaluator: Evaluator
    workers: Workers | None


@dataclass(frozen=True)
class Session:
    """A search under way.

    Attributes:
        problem: The problem.
        journal: Records what is done, and knows what was done before an interruption.
        seed: Seed of the run.
        execution: How the search is carried out.
        evaluating: The means by which masks are evaluated; None for a method that evaluates none.
        loggers: Are told of evaluations and generations.
    """

    problem: Problem
    journal: Journal
    seed: int
    execution: Execution
    evaluating: Evaluating | None = None
    loggers: Loggers = field(default_factory=Loggers)

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator of a method that evaluates masks."""
        assert self.evaluating is not None, "this method evaluates no masks"
        return self.evaluating.evaluator

    @property
    def engine(self) -> str:
        """Name of the engine that trains chosen masks, or ``auto``."""
        return self.execution.engine if self.evaluating is None else self.evaluator.brief.engine

    @property
    def threads(self) -> int:
        """Threads that torch uses: the run's own, if it is resumed."""
        return int(self.journal.execution.get("threads", self.execution.threads))

    @property
    def deterministic(self) -> bool:
        """Whether GPUs train by deterministic algorithms alone: the run's own choice, if it is resumed."""
        return bool(self.journal.execution.get("deterministic", self.execution.deterministic))

    @property
    def order(self) -> int:
        """Seed of the batches, the same for every mask."""
        return seeds.integer(self.seed, "order")

    def generator(self, name: str) -> np.random.Generator:
        """Returns one of the run's random streams, at its beginning; see :data:`evoprune.seeds.STREAMS`."""
        return seeds.generator(self.seed, name)

    def say(self, text: str) -> None:
        """Shows a line above the progress bars, if progress is shown."""
        if self.execution.progress:
            terminal.say(text)

    def bar(self, total: int, name: str, **options: Any) -> AbstractContextManager[terminal.Bar]:
        """Shows a progress bar, if progress is shown; see :func:`evoprune.system.terminal.bar`."""
        return terminal.bar(total, name, shown=self.execution.progress, **options)

    def evaluate(self, masks: Sequence[Mask], gen: int) -> list[Evaluation]:
        """Evaluates masks, gives each its fitness and evidence, and records every evaluation as soon as it is finished.

        Args:
            masks: The masks, each distinct one evaluated once.
            gen: The generation; evaluations of it that the journal has are not done again.

        Returns:
            One evaluation a mask.
        """
        evaluator, recorded = self.evaluator, self.journal.recorded(gen)
        done_by: Counter[str] = Counter()
        with self.bar(len(masks), f"generation {gen}", unit="mask", leave=gen == 0) as bar:
            bar.update(sum(key in recorded or key in evaluator.known for key in (mask.key for mask in masks)))

            def on_result(evaluations: list[Evaluation]) -> None:
                self.record(gen, evaluations)
                done_by.update(evaluation.worker for evaluation in evaluations)
                bar.set_postfix_str(describe_shares(done_by), refresh=False)
                bar.update(min(len(evaluations), len(masks) - bar.n))

            evaluations = evaluator.evaluate(masks, partial(evaluate, self._workers), on_result, recorded)
        if recorded:
            self.say(f"generation {gen}: {len(recorded)} evaluations were on disk already")
        self.journal.calibrated(evaluator.divisors)
        for mask, evaluation in zip(masks, evaluations, strict=True):
            mask.fitness.values = evaluator.values(evaluation)
            mask.evidence = evaluation.evidence
            mask.snapshot = evaluation.snapshot
        return evaluations

    def record(self, gen: int, evaluations: Sequence[Evaluation]) -> None:
        """Records evaluations of a generation, unless they are recorded already, and tells the loggers of them."""
        self.journal.record(gen, evaluations)
        self.loggers.evaluated(gen, evaluations)

    def record_generations(self, logbook: tools.Logbook) -> None:
        """Writes the tables of the generations so far, and tells the loggers of those that are new."""
        write_generations(self.journal, logbook, self.problem.shapes)
        self.loggers.generation(logbook, self.problem.prunable_count)

    def run_chunks(self, chunks: Iterable[Chunk], *, slots: int | None = None) -> Iterable[list[Evaluation]]:
        """Evaluates chunks of masks on the workers; see :func:`evoprune.workers.policy.evaluate`."""
        return evaluate(self._workers, self.evaluator.job, chunks, slots)

    def run(self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
        """Calls a function with each of several arguments, on the workers if there are any.

        Args:
            function: A function at the top of a module.
            arguments: Its arguments, a tuple a task.

        Yields:
            Number of a task and its return value, as they finish.

        Raises:
            RunError: A task was lost, or failed; the message has its traceback.
        """
        workers = None if self.evaluating is None else self.evaluating.workers
        if workers is None or isinstance(workers, Serial):
            yield from ((i, function(*each)) for i, each in enumerate(arguments))
            return
        call = partial(call_deterministically, self.problem.device, self.deterministic, function)
        for i, outcome in run_tasks(workers, call, arguments):
            if not isinstance(outcome, Returned):
                reason = outcome.reason if isinstance(outcome, Lost) else outcome.traceback
                raise RunError(f"a worker could not do a task: {reason}; the same command resumes.")
            yield i, outcome.value

    def count_workers(self) -> int:
        """Returns the number of processes that evaluate."""
        return self._workers.count()

    @property
    def _workers(self) -> Workers:
        assert self.evaluating is not None and self.evaluating.workers is not None, "this method evaluates no masks"
        return self.evaluating.workers

    def require_a_survivor(self, evaluations: Sequence[Evaluation]) -> None:
        """Ends a search in which no mask can be chosen.

        Raises:
            RunError: Every evaluation failed.
        """
        if not all(evaluation.has_failed for evaluation in evaluations):
            return
        folder = self.journal.folder
        where = "" if folder is None else f" The evaluations are recorded in {folder / 'evaluations.csv'}."
        cure = "If training diverged, lower the learning rate."
        if all(evaluation.status == MACHINE_FAILURE for evaluation in evaluations):
            cure = "That is the machine's failure, not the masks': retry_failed=True (--retry-failed) evaluates them again."
        raise RunError(f"all {len(evaluations)} evaluations failed; the first: {evaluations[0].note}. {cure}{where}")


def describe_shares(done_by: Mapping[str, int]) -> str:
    """Returns in words how many masks each worker has evaluated; empty for one worker."""
    if len(done_by) < 2:
        return ""
    if len(done_by) <= NAMED_WORKERS:
        return ", ".join(f"{worker} {count}" for worker, count in sorted(done_by.items()))
    return f"{len(done_by)} workers, {min(done_by.values())} to {max(done_by.values())} each"
