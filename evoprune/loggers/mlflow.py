"""MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from evoprune._version import __version__
from evoprune.errors import InputError
from evoprune.evaluation.chunks import split
from evoprune.loggers import values
from evoprune.loggers.protocol import FAILED, FINISHED, INTERRUPTED, End, Evaluated, Generation, Start
from evoprune.runs.settings import flatten

STATUS = {FINISHED: "FINISHED", INTERRUPTED: "KILLED", FAILED: "FAILED"}
LONGEST = 500  # of a parameter's value, in letters
EACH = 100  # parameters or metrics in one request
EXPERIMENT = "evoprune"


class Mlflow:
    """Logs a run to MLflow, an optional extra: ``pip install evoprune[mlflow]``.

    The server or the folder is MLflow's choice: ``MLFLOW_TRACKING_URI``. Settings are parameters; the numbers of evaluations
    (``evaluation/loss``), generations (``fitness/mean``) and final trainings (``winner/train_loss``) are metrics, and so are
    those of the result. A run that is resumed continues its run of MLflow.

    Args:
        experiment: Name of the experiment; None for ``MLFLOW_EXPERIMENT_NAME``, or else ``evoprune``.

    Raises:
        InputError: MLflow is not installed.
    """

    def __init__(self, experiment: str | None = None) -> None:
        # MLflow reports its use to its makers unless this says otherwise
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise InputError(
                f"MLflow cannot be imported ({error}); pip install 'evoprune[mlflow]', or leave mlflow out of the loggers."
            ) from error
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        self._client, self._metric, self._param = MlflowClient(mlflow.get_tracking_uri()), Metric, Param

    def on_start(self, start: Start) -> str:
        """Begins a run of MLflow, or continues that of the earlier sessions.

        Returns:
            The id of the run of MLflow.
        """
        if start.id is not None:
            self.run = str(start.id)
            self._client.update_run(self.run, status="RUNNING")
            return self.run
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        tags = {"evoprune.version": __version__, "evoprune.problem_hash": start.problem_hash}
        self.run = str(self._client.create_run(experiment, run_name=start.name, tags=tags).info.run_id)
        settings = {"method": start.method, **flatten(start.settings)}
        parameters = [self._param(_name(name), str(value)[:LONGEST]) for name, value in settings.items()]
        for some in split(parameters, EACH):
            self._client.log_batch(self.run, params=list(some))
        return self.run

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Logs ``evaluation/loss`` and so on, by the number of the evaluation."""
        numbers = values.of_evaluation(evaluated.evaluation)
        self._log({f"evaluation/{name}": value for name, value in numbers.items()}, evaluated.number)

    def on_generation(self, generation: Generation) -> None:
        """Logs ``fitness/mean`` and so on, by the generation."""
        self._log(values.of_generation(generation), generation.gen)

    def on_end(self, end: End) -> None:
        """Logs the final trainings by epoch, and the result, and ends the run of MLflow."""
        try:
            if end.result is not None:
                for role, epoch, numbers in values.curves(end.result):
                    self._log({f"{role}/{name}": value for name, value in numbers.items()}, epoch)
                self._log({f"result/{name}": value for name, value in values.of_result(end.result).items()}, 0)
        finally:
            self._client.set_terminated(self.run, STATUS[end.status])

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics: list[Any] = [self._metric(_name(name), value, now, step) for name, value in numbers.items()]
        for some in split(metrics, EACH):
            self._client.log_batch(self.run, metrics=list(some))


def _name(name: str) -> str:
    """Returns a name with the letters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name)[:250]
