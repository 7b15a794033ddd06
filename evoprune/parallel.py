"""The map: who evaluates the chunks of a population. Serially, or on SCOOP's workers.

What crosses the wire to a worker is the problem's key, packed masks and the brief training; a worker that does not have the
problem says so and is sent it once.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from evoprune.brief import STATUSES, Chunk, Evaluation, evaluate_chunk, failed
from evoprune.engines import ENGINES
from evoprune.errors import InputError, LostTaskError, WorkersError
from evoprune.evaluate import Evaluator, Workers, remember
from evoprune.fitness import TERMS
from evoprune.operators import Evidence
from evoprune.worker import under_own_launcher, under_scoop, work

NUMBERS = ("validation_loss", "validation_accuracy", "multiply_adds", "seconds")
# Runs a function with each of several arguments; see :func:`run_on_scoop`.
RunTasks: TypeAlias = Callable[[Callable[..., tuple[str, Any]], Sequence[tuple[Any, ...]]], Iterator[tuple[int, str, Any]]]
T = TypeVar("T")


@runtime_checkable
class Cluster(Protocol):
    """Workers that also do whole tasks, such as :class:`evoprune.dask.DaskWorkers`."""

    def __call__(
        self, evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None
    ) -> Iterable[list[Evaluation]]:
        """Evaluates chunks; see :class:`evoprune.evaluate.Workers`."""

    def count(self) -> int:
        """Returns the number of workers."""

    def run(
        self, function: Callable[..., tuple[str, Any]], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, str, Any]]:
        """Runs tasks; see :func:`run_on_scoop`."""

    def close(self) -> object:
        """Leaves the cluster."""


STOCK = (
    "SCOOP's own launcher listens on every network interface and runs what strangers send it, hangs when an idle worker dies, "
    "does long tasks twice, and ends with status 0 whatever happens; use: python -m evoprune.scoop -n N script.py ..."
)


def choose_workers(name: str | Workers = "auto", evaluation_timeout: float | None = None) -> Workers:
    """Returns who evaluates.

    Args:
        name: ``serial``; ``scoop`` (the script must run under ``python -m evoprune.scoop``, or SCOOP's own launcher); ``auto``:
            SCOOP where the script runs under it, else serial; ``dask:N`` or the address of a Dask scheduler, see
            :class:`evoprune.dask.DaskWorkers`. An object that evaluates is returned as it is, and has limits of its own.
        evaluation_timeout: Seconds that the evaluation of a mask may take; a mask that takes longer counts as failed. None: no
            limit.

    Raises:
        InputError: An unknown name, ``scoop`` where SCOOP does not run, or a limit that is not above 0 or that nobody can
            enforce.
    """
    if evaluation_timeout is not None and not (math.isfinite(evaluation_timeout) and evaluation_timeout > 0):
        raise InputError(f"evaluation_timeout is {evaluation_timeout}; expected a number of seconds above 0.")
    if not isinstance(name, str):
        if evaluation_timeout is not None:
            raise InputError(f"evaluation_timeout is {evaluation_timeout}, but workers are an object; expected a name.")
        return name
    if name.startswith(("dask:", "tcp://", "tls://")):
        return _dask(name, evaluation_timeout)
    if name not in ("auto", "serial", "scoop"):
        raise InputError(
            f"workers are {name!r}; expected auto, serial, scoop, dask:N, or a scheduler's address such as tcp://host:8786."
        )
    running = under_scoop()
    if name == "scoop" and not running:
        raise InputError("workers are 'scoop', but SCOOP does not run; start with: python -m evoprune.scoop -n 2 script.py ...")
    chosen = scoop if running and name != "serial" else serial
    if chosen is scoop:
        warn_of_stock_launcher()
    if evaluation_timeout is None:
        return chosen
    if chosen is serial or not under_own_launcher():
        raise InputError(
            f"evaluation_timeout is {evaluation_timeout}, but this process cannot end an evaluation that hangs; start with "
            f"python -m evoprune.scoop -n 1 script.py ..., or take the workers dask:1."
        )
    return functools.partial(scoop, evaluation_timeout=evaluation_timeout)


def _dask(name: str, evaluation_timeout: float | None) -> Workers:
    if importlib.util.find_spec("distributed") is None:
        raise InputError(f"workers are {name!r}, but Dask is not installed: pip install 'evoprune[dask]'")
    from evoprune.dask import DaskWorkers

    return DaskWorkers(name, evaluation_timeout)


def warn_of_stock_launcher() -> None:
    """Warns, once a process, where SCOOP's own launcher is used."""
    if under_scoop() and sys.modules["scoop"].IS_ORIGIN and not under_own_launcher():
        warnings.warn(STOCK, RuntimeWarning, stacklevel=1)


def serial(evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None) -> Iterator[list[Evaluation]]:
    """Evaluates in this process; see :class:`evoprune.evaluate.Workers`."""
    source = iter(chunks)
    taken = deque(islice(source, slots))
    while taken:
        yield evaluate_chunk(evaluator.problem, taken.popleft(), evaluator.brief)
        taken.extend(islice(source, 1))


def scoop(
    evaluator: Evaluator, chunks: Iterable[Chunk], *, slots: int | None = None, evaluation_timeout: float | None = None
) -> Iterator[list[Evaluation]]:
    """Evaluates on SCOOP's workers; see :class:`evoprune.evaluate.Workers`.

    Where company changes no bit, chunks are split so that no worker idles while another has several masks left. A chunk that
    no worker can finish, or that comes back as rubbish, is evaluated mask by mask; a mask of which that holds, too, has failed.

    Args:
        evaluator: The evaluator.
        chunks: Its chunks.
        slots: Chunks that are under way at a time; None for all.
        evaluation_timeout: Seconds that a mask may take.

    Raises:
        WorkersError: A worker could not make the problem; the message has its traceback.
    """
    from scoop import futures

    key, brief = evaluator.key, asdict(evaluator.brief)
    remember(key, evaluator.problem)

    waiting: dict[Any, tuple[Chunk, int]] = {}  # masks, and the number of the chunk that they are of

    def submit(masks: Chunk, chunk: int, payload: bytes | None = None) -> Any:
        packed = [np.packbits(mask.bits).tobytes() for mask in masks]
        future = futures.submit(work, key, payload, brief, packed, evaluation_timeout)
        waiting[future] = masks, chunk
        return future

    workers = count_workers(scoop)
    source = enumerate(chunks if slots is not None else share_out(evaluator, list(chunks), workers))
    left: Counter[int] = Counter()  # masks of each chunk that are still to come
    carrying: set[Any] = set()  # those that bring the problem, at most one for each worker
    held_back: list[tuple[Chunk, int]] = []
    for chunk, masks in islice(source, slots):
        left[chunk] = len(masks)
        submit(masks, chunk)
    while waiting:
        future, outcome, content = next_done(waiting)
        masks, chunk = waiting.pop(future)
        if outcome == "unknown problem":
            if len(carrying) < workers:
                carrying.add(submit(masks, chunk, evaluator.payload))
            else:
                held_back.append((masks, chunk))
            continue
        carrying.discard(future)
        while held_back:
            submit(*held_back.pop())
        try:
            evaluations = evaluations_of(outcome, content, masks)
        except LostTaskError as error:
            if len(masks) > 1:
                for mask in masks:
                    submit([mask], chunk)
                continue
            evaluations = [failed(masks[0], evaluator.brief, str(error))]
        yield evaluations
        left[chunk] -= len(masks)
        if not left[chunk]:
            for another, masks in islice(source, 1):
                left[another] = len(masks)
                submit(masks, another)


def share_out(evaluator: Evaluator, chunks: Sequence[Chunk], workers: int) -> list[Chunk]:
    """Returns all masks in pieces of equal size, as many for each worker, and none larger than a chunk.

    Where an individual's bits depend on its company, the chunks are returned as they are.
    """
    if not chunks or not ENGINES[evaluator.brief.engine].company_changes_no_bit(evaluator.problem):
        return list(chunks)
    return equal_pieces(chunks, workers)


def equal_pieces(chunks: Sequence[Sequence[T]], workers: int) -> list[Sequence[T]]:
    """Returns what chunks hold in pieces of equal size, as many for each worker, none larger than a chunk; the larger first."""
    items = [item for chunk in chunks for item in chunk]
    rounds = math.ceil(len(items) / (workers * max(len(chunk) for chunk in chunks)))
    count = min(rounds * workers, len(items))
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return sorted((items[start:end] for start, end in pairwise(bounds)), key=len, reverse=True)


def count_workers(workers: Workers) -> int:
    """Returns how many processes evaluate: under SCOOP's own launcher the script's does, too.

    Raises:
        InputError: It is not known of such workers.
    """
    require_a_count(workers)
    if isinstance(workers, Cluster):
        return workers.count()
    if workers is serial:
        return 1
    import scoop as package

    return int(package.SIZE) - 1 if under_own_launcher() else int(package.SIZE)


def require_a_count(workers: Workers) -> None:
    """Checks that :func:`count_workers` can count workers.

    Raises:
        InputError: It cannot.
    """
    if not isinstance(workers, Cluster) and getattr(workers, "func", workers) not in (serial, scoop):
        raise InputError(f"workers are {workers!r}, which are not known to be of some number; expected slots to be given.")


def run_on_scoop(
    function: Callable[..., tuple[str, Any]], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, str, Any]]:
    """Runs a function with each of several arguments on SCOOP's workers.

    Args:
        function: Returns an outcome and content, and raises nothing.
        arguments: Its arguments, a tuple a task.

    Yields:
        Number of a task, its outcome and content, as they finish; ``lost`` and the reason where no worker could do it.
    """
    from scoop import futures

    waiting = {futures.submit(function, *each): i for i, each in enumerate(arguments)}
    while waiting:
        future, outcome, content = next_done(waiting)
        yield waiting.pop(future), outcome, content


def next_done(waiting: Collection[Any]) -> tuple[Any, str, Any]:
    """Waits for one of several of SCOOP's futures, and returns it with its outcome and content.

    Args:
        waiting: Futures of tasks that return an outcome and content, such as :func:`work`.

    Returns:
        What the task returned; ``lost`` and the reason where no worker could finish it.
    """
    from scoop import futures

    while True:
        try:
            future = next(iter(futures.as_completed(list(waiting))))
        except LostTaskError as error:
            lost = [future for future in waiting if future.exceptionValue is error]
            if lost:  # SCOOP raises it again for a future that is no longer waited for
                return lost[0], "lost", str(error)
        else:
            return future, *future.resultValue


def evaluations_of(outcome: str, content: Any, masks: Chunk) -> list[Evaluation]:
    """Returns the evaluations of what a worker returned.

    Args:
        outcome: See :func:`work`; ``lost`` where no worker could finish it.
        content: Likewise; the reason.
        masks: What was to be evaluated.

    Raises:
        LostTaskError: No worker could finish it, or it is rubbish.
        WorkersError: The worker could not make the problem; the message has its traceback.
    """
    if outcome == "error":
        raise WorkersError(f"a worker could not evaluate:\n{content}")
    if outcome != "ok":
        raise LostTaskError(content)
    try:
        evaluations = [_evaluation(fields) for fields in content]
        if [evaluation.mask for evaluation in evaluations] != [mask.hash for mask in masks]:
            raise ValueError("its evaluations are of other masks")
        for evaluation in evaluations:
            if evaluation.status not in STATUSES or set(evaluation.terms) != set(TERMS):
                raise ValueError(f"an evaluation is {evaluation}")
            for number in (*evaluation.terms.values(), *(getattr(evaluation, name) for name in NUMBERS)):
                float(number)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LostTaskError(f"a worker returned rubbish: {error}".replace("\n", " ")) from error
    return evaluations


def _evaluation(fields: dict[str, Any]) -> Evaluation:
    evidence = fields["evidence"]
    return Evaluation(**fields | {"evidence": None if evidence is None else Evidence(**evidence)})


class ChunkedMap:
    """A map for ``toolbox.map``: like the built-in one, and in chunks over the workers where the function evaluates masks.

    As a context manager it ends workers that are its own, of a local cluster, when it is left.

    Args:
        workers: Who evaluates.
        owns_workers: They are its own.
    """

    def __init__(self, workers: Workers = serial, owns_workers: bool = False) -> None:
        self.workers, self.owns_workers = workers, owns_workers

    def __enter__(self) -> ChunkedMap:
        return self

    def __exit__(self, *error: object) -> None:
        close = getattr(self.workers, "close", None)
        if self.owns_workers and close is not None:
            close()

    def __call__(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> list[Any]:
        """Returns ``list(map(function, *iterables))``."""
        evaluator = function
        while isinstance(evaluator, functools.partial):  # what toolbox.register makes of a function
            evaluator = evaluator.func
        if not isinstance(evaluator, Evaluator):
            return list(map(function, *iterables))
        (masks,) = iterables
        masks = list(masks)
        evaluator.check_survivors(masks)
        evaluations = evaluator.evaluate(masks, self.workers)
        return [evaluator.rate(mask, evaluation) for mask, evaluation in zip(masks, evaluations, strict=True)]
