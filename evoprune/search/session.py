"""The plan of a search, and where it is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoprune.system.importing import require_main_guard
from evoprune.training.dissipation import Dissipation
from evoprune.workers.base import Workers


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        method: Name of the method, as in records.
        k: Number of starts.
        restart: Train what was found from W0 with another order of the batches.
        controls: Train the controls, too.
        dissipation: What is removed while the chosen masks are trained; None for nothing.
        free_after: Epochs after which their engine may change; see :func:`evoprune.training.final.train_fully`.
    """

    method: str
    k: int
    restart: bool = False
    controls: bool = False
    dissipation: Dissipation | None = None
    free_after: int | None = None


@dataclass(frozen=True)
class Where:
    """Where it is done and recorded; see :func:`evoprune.search.kstarts.k_starts`."""

    workers: str | Workers
    threads: int
    out: str | os.PathLike[str] | None
    force: bool
    progress: bool
    evaluation_timeout: float | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        require_main_guard()
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out).absolute())  # before code of the user's may change the folder

    @property
    def evaluating(self) -> dict[str, Any]:
        """What :func:`evoprune.search.toolbox.make_toolbox` wants of it."""
        return {"workers": self.workers, "threads": self.threads, "evaluation_timeout": self.evaluation_timeout}

    @property
    def recorded(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**self.evaluating, "workers": str(self.workers)}
