"""Weights & Biases."""

from __future__ import annotations

import os
import secrets
from typing import Any

from evoprune.errors import InputError
from evoprune.loggers import values
from evoprune.loggers.protocol import FAILED, FINISHED, INTERRUPTED, End, Evaluated, Generation, Start

# W&B shows a process that was ended by Ctrl-C so.
EXIT_CODES = {FINISHED: 0, FAILED: 1, INTERRUPTED: 255}
PROJECT = "evoprune"


class Wandb:
    """Logs a run to Weights & Biases, an optional extra: ``pip install evoprune[wandb]``.

    The account is W&B's choice: ``wandb login``, or ``WANDB_MODE=offline`` for files in ``wandb`` that nobody else sees.
    Settings are the config; evaluations, generations and the final trainings are charts, each by its number, and the result is
    the summary. The text on the terminal, the code, its Git repository and the load of the machine are not sent. A run that
    is resumed continues its run of W&B.

    Args:
        project: Name of the project; None for ``WANDB_PROJECT``, or else ``evoprune``.

    Raises:
        InputError: W&B is not installed.
    """

    def __init__(self, project: str | None = None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                f"W&B cannot be imported ({error}); pip install 'evoprune[wandb]', or leave wandb out of the loggers."
            ) from error
        self._wandb = wandb
        self.project = project or os.environ.get("WANDB_PROJECT") or PROJECT

    def on_start(self, start: Start) -> str:
        """Begins a run of W&B, or continues that of the earlier sessions.

        Returns:
            The id of the run of W&B.
        """
        settings = self._wandb.Settings(
            console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True, x_save_requirements=False
        )
        config = {"method": start.method, **start.settings, "problem_hash": start.problem_hash}
        name = start.id or secrets.token_hex(8)
        self._run: Any = self._wandb.init(
            project=self.project, id=name, name=start.name, resume="allow", config=config, settings=settings
        )
        for group, number in (("evaluation", "evaluation/number"), ("generation", "generation/gen")):
            self._run.define_metric(number, hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=number)
        return name

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Logs ``evaluation/loss`` and so on."""
        numbers = values.of_evaluation(evaluated.evaluation) | {"number": evaluated.number, "gen": evaluated.gen}
        self._run.log({f"evaluation/{name}": value for name, value in numbers.items()})

    def on_generation(self, generation: Generation) -> None:
        """Logs ``generation/fitness/mean`` and so on."""
        numbers = values.of_generation(generation) | {"gen": generation.gen}
        self._run.log({f"generation/{name}": value for name, value in numbers.items()})

    def on_end(self, end: End) -> None:
        """Logs the final trainings by epoch, enters the result in the summary, and ends the run of W&B."""
        try:
            if end.result is not None:
                for role in end.result.trainings:
                    self._run.define_metric(f"{role}/*", step_metric=f"{role}/epoch")
                for role, epoch, numbers in values.curves(end.result):
                    self._run.log({f"{role}/{name}": value for name, value in (numbers | {"epoch": epoch}).items()})
                self._run.summary.update(values.of_result(end.result))
        finally:
            self._run.finish(exit_code=EXIT_CODES[end.status])
