"""Execution: the workers and the engine of a search, and the folder of its records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoprune.engines.registry import arithmetic
from evoprune.errors import InputError
from evoprune.options import check_sizes


@dataclass(frozen=True)
class Execution:
    """How a search is carried out. None of it decides the result, except for the last bits and the seed.

    Raises:
        InputError: A number of threads that is not a positive integer.
    """

    workers: str = "auto"
    """The processes that evaluate masks: serial, scoop, auto (SCOOP under `python -m evoprune.scoop`, else serial), pool:N (N
    processes on this machine), dask:N (a local Dask cluster of N processes) or the address of a Dask scheduler, such as
    tcp://host:8786. The result is the same with any, except with --steady-state."""
    engine: str = "auto"
    """How masked networks are trained: module (one after another, any network), stacked (together, dense), sparse (by
    compiled kernels, at the cost of the survivors), or auto (the one with the least measured cost for network, sparsity and
    chunk)."""
    threads: int = 1
    """Threads of torch in every evaluating process. A resumed run keeps its own number."""
    deterministic: bool = True
    """On a GPU, train by deterministic algorithms of full precision (no TF32) alone, so that the same seed gives the same bits;
    a network with an operation that has none is refused. Otherwise torch's settings stay as they are. A resumed run keeps its
    own choice. No effect on the CPU."""
    devices: tuple[str, ...] = ()
    """GPUs of this machine, such as cuda:0 cuda:1, one for each process of pool:N or dask:N; each process sees its own alone.
    For SCOOP they are an option of its launcher. None: all processes share the default GPU."""
    evaluation_timeout: float | None = field(default=None, metadata={"any_size": True})
    """Seconds that the evaluation of a mask may take. A mask that takes longer gets the worst fitness. This needs workers that
    can be ended: `python -m evoprune.scoop`, pool:N, or Dask. None: no limit."""
    retry_failed: bool = False
    """Return to the state before the first mask that failed because of the machine, such as for lack of memory, and evaluate it
    again. Otherwise it keeps the worst fitness."""
    out: Path | None = None
    """Folder of the run. Running again resumes it. None: on the command line runs/METHOD-DATA-HASH, with a hash of the
    settings; in Python nothing is recorded."""
    force: bool = False
    """Start over if --out holds a run with other settings."""
    log: tuple[str, ...] = ()
    """Loggers of the run, one or several: jsonl (a line for each event, in log.jsonl of the run folder), tensorboard, mlflow,
    wandb (Weights & Biases), or one that you registered. jsonl:FILE, tensorboard:FOLDER, mlflow:EXPERIMENT and wandb:PROJECT
    name the place. Only mlflow and wandb may send anything. In Python also an object; see the manual."""
    seed: int | None = field(default=None, metadata={"flag": False, "any_size": True})
    """Seed of the run. None: the problem's."""
    progress: bool = field(default=False, metadata={"flag": False})
    """Show progress bars on standard error."""

    def __post_init__(self) -> None:
        check_sizes(self)
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise InputError(f"threads is {self.threads!r}; expected a positive integer.")
        object.__setattr__(self, "devices", (self.devices,) if isinstance(self.devices, str) else tuple(self.devices))
        several = isinstance(self.log, (tuple, list))
        object.__setattr__(self, "log", tuple(self.log) if several else () if self.log is None else (self.log,))
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out).absolute())  # the user's code may change the folder later

    def recorded(self, engine: str, device: str = "cpu") -> dict[str, Any]:
        """Returns the values that a run records, as JSON values.

        Args:
            engine: Name of the engine that was chosen.
            device: The device on which networks are trained; on the CPU the options for GPUs say nothing.
        """
        of_gpus: dict[str, Any] = {} if device == "cpu" else {"deterministic": self.deterministic}
        of_gpus |= {"devices": list(self.devices)} if self.devices else {}
        return {
            **of_gpus,
            "workers": str(self.workers),
            "threads": self.threads,
            "evaluation_timeout": self.evaluation_timeout,
            "engine": engine,
            "arithmetic": arithmetic(),
        }
