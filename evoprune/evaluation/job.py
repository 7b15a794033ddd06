"""A job: all that an evaluation depends on beside the mask; sent to each worker once, which keeps the last few."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from evoprune.engines.population import Engine
from evoprune.engines.registry import ENGINES
from evoprune.errors import InputError
from evoprune.evaluation.evaluation import worker_name
from evoprune.evaluation.terms import Term
from evoprune.problem.identity import Identified, differing, hash_of, identify
from evoprune.problem.metrics import column
from evoprune.problem.problem import Problem
from evoprune.problem.usercode import remember_texts, versions
from evoprune.training.dissipation import Dissipation

# As many jobs as a process keeps; the payload of any other has to come again.
KEPT = 4


@dataclass(frozen=True)
class BriefTraining:
    """How masks are trained briefly.

    Attributes:
        epochs: Epochs of the brief training: the first of the recipe's; 0 judges untrained networks.
        seed: Seeds batches and noise; one a run, the same for every individual.
        engine: Name of the engine.
        threads: Threads that torch uses.
        chunk_size: Masks that are evaluated together, if the engine takes several at a time.
        dissipation: How survivors are removed during the brief training; None for not at all.
        evidence: Fraction of the survivors that :func:`evoprune.evaluation.evidence.take_evidence` names; 0 takes none.
        drop: How it ranks them: by ``absolute`` or ``relative`` movement, ``magnitude``, or ``random``.
        inherit: Take a snapshot at the end; a mask that has one continues from it, for so many epochs.
        deterministic: Train on a GPU by deterministic algorithms; see :func:`evoprune.training.determinism.deterministic`.
    """

    epochs: int
    seed: int
    engine: str = "module"
    threads: int = 1
    chunk_size: int = 8
    dissipation: Dissipation | None = None
    evidence: float = 0.0
    drop: str = "absolute"
    inherit: bool = False
    deterministic: bool = True


@dataclass(eq=False)
class Job:
    """A problem, a brief training, and the user's own fitness terms.

    Args:
        problem: The problem.
        brief: The brief training.
        terms: Those of the user's own fitness terms that the fitness is made of, by name. The built-in ones are always
            measured.
        own_engine: The engine, if it is the user's own; None for the built-in one that ``brief`` names.
    """

    problem: Problem
    brief: BriefTraining
    terms: Mapping[str, Term] = field(default_factory=dict)
    own_engine: Engine | None = None
    _key: str = field(default="", init=False, repr=False)
    _payload: bytes | None = field(default=None, init=False, repr=False)

    @property
    def engine(self) -> Engine:
        """The engine of the brief training."""
        return self.own_engine or ENGINES[self.brief.engine]

    @property
    def chunk(self) -> int:
        """Masks that are evaluated together."""
        return self.engine.chunk(self.brief.chunk_size)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the numbers that are measured beside the built-in terms: the user's own terms, and the problem's metrics."""
        return (*self.terms, *(column(name) for name in self.problem.metrics))

    def identify(self) -> dict[str, str]:
        """Returns a digest for each part of the problem, and for each of the user's own fitness terms.

        Raises:
            InputError: They hold something that cannot be identified.
        """
        return {**self.problem.identify(), **self.identify_terms()}

    def identify_terms(self) -> dict[str, str]:
        """Returns a digest for each of the user's own fitness terms."""
        return {name: found.digest for name, found in self._identified_terms().items()}

    def _identified_terms(self) -> dict[str, Identified]:
        own = {f"fitness {name}": term for name, term in self.terms.items()}
        return {name: identify(name, term, self.problem.options.ignore) for name, term in own.items()}

    @property
    def key(self) -> str:
        """The name by which workers know the job: a hash of its identity, after a name that no other job has.

        It changes when a global changes that the user's code reads.
        """
        now = hash_of(self.identify())
        if self._key.rpartition(":")[2] != now:
            self._key, self._payload = f"{uuid.uuid4().hex}:{now}", None
        return self._key

    @property
    def payload(self) -> bytes:
        """The pickled job, for a worker that does not have it yet; the user's own code in a script travels by value.

        Raises:
            InputError: The job holds something that cannot be pickled.
        """
        if self._payload is None:
            texts = [self.problem.texts, *(found.texts for found in self._identified_terms().values())]
            parts = {
                "versions": versions(),
                "identified": self.identify(),
                "texts": {key: text for each in texts for key, text in each.items()},
            }
            try:
                content = cloudpickle.dumps((self.problem, self.brief, dict(self.terms), self.own_engine))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"the problem, or a fitness of your own, cannot be sent to workers: {error}. Expected modules and "
                    f"functions that hold no locks, files or connections."
                ) from error
            self._payload = pickle.dumps({**parts, "content": content})
        return self._payload

    @classmethod
    def of(cls, payload: bytes) -> Job:
        """Returns the job of a payload.

        Raises:
            InputError: It makes another job here: other data, versions or code than in the main process.
        """
        parts = pickle.loads(payload)  # noqa: S301 - from the run's own main process, over its channel
        _check_versions(parts["versions"])
        remember_texts(parts["texts"])
        job = cls(*pickle.loads(parts["content"]))  # noqa: S301 - from there as well
        _check_identity(parts["identified"], job)
        return job

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.key, self.payload)


# The jobs that this process has, by key: a worker makes each once. Workers of every kind call plain functions, so there is
# no other place that outlives a call.
_jobs: dict[str, Job] = {}


def remember(key: str, job: Job) -> None:
    """Keeps a job for :func:`recall`."""
    _jobs[key] = job
    for oldest in list(_jobs)[:-KEPT]:
        del _jobs[oldest]


def forget_all() -> None:
    """Drops the jobs that this process keeps."""
    _jobs.clear()


def recall(key: str, payload: bytes | None) -> Job | None:
    """Returns this process's job of that key, made from the payload the first time; None without either.

    Raises:
        InputError: The payload makes another job here; see :meth:`Job.of`.
    """
    if key not in _jobs and payload is not None:
        remember(key, Job.of(payload))
    return _jobs.get(key)


def _unpickle(key: str, payload: bytes) -> Job:
    job = recall(key, payload)
    assert job is not None
    return job


def _check_versions(theirs: Mapping[str, str]) -> None:
    """Checks that a worker has the main process's versions of the packages that decide results.

    Raises:
        InputError: It has others.
    """
    own = versions()
    other = [f"{name} is {own.get(name)}, there {version}" for name, version in theirs.items() if own.get(name) != version]
    if other:
        raise InputError(
            f"{worker_name()} has other versions than the main process: {', '.join(other)}; expected the same on every host."
        )


def _check_identity(identified: Mapping[str, str], job: Job) -> None:
    """Checks that a job's problem and terms are the same in this process as in the main one.

    Raises:
        InputError: They differ.
    """
    if other := differing(identified, job.identify()):
        raise InputError(
            f"on {worker_name()} the problem has another hash than in the main process; these differ: {other}. Expected the "
            f"same data files and modules on every host, and modules whose globals the script does not change."
        )
