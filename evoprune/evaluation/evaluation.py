"""An evaluation: all that is known of a mask after its brief training."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import getpid

from evoprune.evaluation.terms import ACCURACY, BUILT_IN_TERMS
from evoprune.masks.evidence import Evidence
from evoprune.masks.mask import Mask
from evoprune.masks.snapshot import Snapshot

STATUSES = OK, NO_BETTER_THAN_CHANCE, FAILURE, MACHINE_FAILURE = "ok", "no better than chance", "failed", "machine failure"


@dataclass(frozen=True)
class Evaluation:
    """The facts about a mask after its brief training.

    Attributes:
        mask: The mask's key: its hash, and its parent's state if it inherits one.
        seed: The evaluation's seed.
        terms: Raw fitness terms by name, and the problem's metrics on the validation set as ``validation_NAME``; NaN where a
            failure left none, and for a metric that is not finite.
        validation_loss: Mean loss on the validation set.
        validation_accuracy: From 0 to 1; NaN where accuracy is not defined.
        status: ``ok``, ``no better than chance`` (the validation loss is not below that of the best prediction that
            ignores the input), ``failed`` (something is not finite, or was raised), or ``machine failure`` (there was no
            memory, or the like: no fact about the mask, which may be tried again).
        note: Why it failed; else the layers and outputs that the mask cuts off, if any.
        multiply_adds: Its cost, see :func:`evoprune.training.cost.multiply_adds`; NaN where a failure left it open.
        worker: Host and process that did it.
        seconds: Time it took; a chunk's time is shared equally.
        evidence: For the informed mutation, if it was wanted and nothing failed; recorded apart.
        snapshot: The state at its end, if children are to continue from it and nothing failed; recorded apart.
    """

    mask: str
    seed: int
    terms: Mapping[str, float]
    validation_loss: float
    validation_accuracy: float
    status: str
    note: str
    multiply_adds: float
    worker: str
    seconds: float
    evidence: Evidence | None = field(default=None, compare=False, repr=False)
    snapshot: Snapshot | None = field(default=None, compare=False, repr=False)

    @property
    def has_failed(self) -> bool:
        """Whether there is nothing to judge the mask by."""
        return self.status in (FAILURE, MACHINE_FAILURE)

    @property
    def values(self) -> dict[str, float]:
        """The numbers that fitness is made of: the raw terms, and the validation accuracy."""
        return {**self.terms, ACCURACY: self.validation_accuracy}


def key_of(mask: Mask, inherit: bool) -> str:
    """Returns the name of a mask's evaluation: with inherited weights its key, else its hash."""
    return mask.key if inherit else mask.hash


def failed(mask: str, seed: int, note: str, status: str = FAILURE, own: Iterable[str] = ()) -> Evaluation:
    """Returns the evaluation of a mask that could not be evaluated.

    Args:
        mask: The mask's key.
        seed: The evaluation's seed.
        note: Why.
        status: Whether it was the mask's failure or the machine's.
        own: Names of the user's own fitness terms and of metrics that would have been measured.
    """
    terms = dict.fromkeys((*BUILT_IN_TERMS, *own), math.nan)
    return Evaluation(mask, seed, terms, math.nan, math.nan, status, note, math.nan, worker_name(), 0.0)


def worker_name() -> str:
    """Returns host and process id."""
    return f"{socket.gethostname()}:{getpid()}"
