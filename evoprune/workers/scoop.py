"""SCOOP's processes as workers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from evoprune.errors import InputError, LostTaskError
from evoprune.workers.base import Lost, Outcome, attempt, pack
from evoprune.workers.launcher import under_own_launcher, under_scoop

STOCK = (
    "SCOOP's own launcher listens on every network interface and runs code that strangers send it, hangs when an idle worker "
    "dies, does long tasks twice, and ends with status 0 whatever happens; use: python -m evoprune.scoop -n N script.py ..."
)


class Scoop:
    """The workers of ``python -m evoprune.scoop``, or of SCOOP's own launcher, with a warning.

    The launcher tries a task again whose worker dies, and ends a worker whose evaluation takes too long.

    Args:
        evaluation_timeout: Seconds that the evaluation of a mask may take; None for no limit.

    Raises:
        InputError: SCOOP does not run, or its launcher cannot enforce the limit.
    """

    def __init__(self, evaluation_timeout: float | None = None) -> None:
        if not under_scoop():
            raise InputError(
                "workers are 'scoop', but SCOOP does not run; start with: python -m evoprune.scoop -n 2 script.py ..."
            )
        if not under_own_launcher():
            if evaluation_timeout is not None:
                raise InputError(
                    f"evaluation_timeout is {evaluation_timeout}, but SCOOP's own launcher cannot end an evaluation that "
                    f"hangs; start with: python -m evoprune.scoop -n 2 script.py ..."
                )
            if sys.modules["scoop"].IS_ORIGIN:
                warnings.warn(STOCK, RuntimeWarning, stacklevel=1)
        self.evaluation_timeout = evaluation_timeout
        self._waiting: list[Any] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Starts a task; its ticket is SCOOP's future."""
        from scoop import futures

        self._waiting.append(futures.submit(attempt, pack(function, arguments)))
        return self._waiting[-1]

    def wait(self) -> tuple[Any, Outcome]:
        """Waits for one of the tasks; it is lost if no worker could finish it."""
        from scoop import futures

        while True:
            try:
                done = next(iter(futures.as_completed(self._waiting)))
                outcome: Outcome = done.resultValue
            except LostTaskError as error:
                lost = [future for future in self._waiting if future.exceptionValue is error]
                if not lost:  # SCOOP raises it again for a future that is no longer waited for
                    continue
                done, outcome = lost[0], Lost(str(error))
            self._waiting.remove(done)
            return done, outcome

    def count(self) -> int:
        """Returns the number of processes that work; under SCOOP's own launcher the script's process is one of them."""
        import scoop as package

        return int(package.SIZE) - 1 if under_own_launcher() else int(package.SIZE)

    def close(self) -> None:
        """Does nothing: the workers end with the script."""
