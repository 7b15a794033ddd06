"""Options of the command line."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from evoprune.problem.problem import Problem


@dataclass(frozen=True)
class ProblemOptions:
    """Options of the problem."""

    model: str = "lenet-300-100"
    """Network: lenet-300-100, mlp or autoencoder."""
    widths: tuple[int, ...] | None = None
    """Hidden widths of mlp (None: 128 64) or autoencoder (None: 256 64, mirrored in the decoder)."""
    exclude: tuple[str, ...] = ()
    """Names of parameters or modules that stay dense, such as fc3."""
    epochs: int = 15
    """Epochs of the full training, the brief training included."""
    batch_size: int = 64
    """Examples a step."""
    optimizer: str = "SGD"
    """Name of a class in torch.optim."""
    lr: float = 0.05
    """Learning rate at the start."""
    momentum: float | None = None
    """Momentum; None: 0.9 for an optimizer that has it."""
    weight_decay: float = 5e-4
    """Weight decay."""
    schedule: str = "cosine"
    """Learning rate over all steps of all epochs: cosine, linear or constant."""
    initialization: str = "kaiming"
    """Initial weights: kaiming or xavier (both normal, zero biases), or pytorch (each layer's own default)."""
    w0_density: float | None = None
    """Scale the initial weights by 1 / sqrt of this density, the same for every mask. None: not scaled."""
    validation_fraction: float = 0.1
    """Fraction of the training examples that is split off to select on."""
    test_fraction: float = 0.2
    """Fraction split off as test set, for data that come without one (digits)."""
    normalize: bool = True
    """Shift and scale the pixels to mean 0 and standard deviation 1 (of the training pixels); else they lie in 0 to 1."""
    dtype: str = "float32"
    """Number format of weights and inputs: float32 or float64."""
    device: str = "cpu"
    """Where networks are trained: cpu or cuda."""
    data_dir: Path | None = None
    """Folder of the data files; None: the environment variable EVOPRUNE_DATA, else they are downloaded and cached."""


@dataclass(frozen=True)
class Options(ProblemOptions):
    """Options of every method."""

    data: str = "digits"
    """Data set: digits (embedded), mnist or fashion-mnist."""
    seed: int = 0
    """Seed of everything drawn: weights, split, order of batches, masks, choices."""
    engine: str = "auto"
    """How masked networks are trained: module (one after another, any network), stacked (together, dense), sparse (together, at
    the cost of the survivors), or auto (the one with the least measured cost for network, sparsity and chunk)."""
    threads: int = 1
    """Threads of torch in every evaluating process. A resumed run keeps its own."""
    out: Path | None = None
    """Folder of the run; None: runs/METHOD-DATA-HASH of the settings. Running again resumes it."""
    force: bool = False
    """Start over where --out holds a run with other settings."""


@dataclass(frozen=True)
class StartOptions(Options):
    """Options of a method that chooses among random masks."""

    k: int = 16
    """Number of random masks."""
    fitness: str = "combined"
    """What a brief training is scored by: magnitude (sum over the survivors of |w|), gradient (sum over the last epoch's
    steps and the survivors of |g|), combined (both, each divided by its mean over the initial population), or loss (minus the
    validation loss: the control)."""
    fitness_epochs: int = 2
    """Epochs of the brief training: the first of --epochs. 0 judges untrained networks, by loss, accuracy or magnitude."""
    layer_densities: str = "varied"
    """How the survivors of a random mask spread over the layers: uniform (the same density everywhere, the plainest reading
    of the paper), erk (Erdős-Rényi-Kernel), or varied (ERK's densities times random factors drawn for each start)."""
    restart: bool = False
    """Train the winner and the controls from the initial weights with another order of the batches, instead of going on from
    where they are."""
    controls: bool = True
    """Also train two controls: a random one of the masks, and the one of the least validation loss."""
    chunk_size: int | None = None
    """Masks that are trained together, where the engine can. None: a quarter of the population, at most 8."""
    workers: str = "auto"
    """Who evaluates: serial, scoop, auto (SCOOP under `python -m evoprune.scoop`, else serial), dask:N (a local cluster of N
    processes) or the address of a Dask scheduler, such as tcp://host:8786. Not a setting: the result is the same."""
    evaluation_timeout: float | None = None
    """Seconds that the evaluation of a mask may take; one that takes longer is ended, and the mask gets the worst fitness.
    Needs `python -m evoprune.scoop`, or Dask. None: no limit."""
    retry_failed: bool = False
    """Go back to before the first mask that the machine failed, by a lack of memory or the like, and evaluate it again; else it
    keeps the worst fitness."""


@dataclass(frozen=True)
class DissipationOptions:
    """Options of dissipating gradients."""

    dissipate_epochs: int = 8
    """Number of removals, one at the end of each of so many epochs."""
    movement: str = "absolute"
    """What makes a weight go: absolute (|w - w0| is small), relative (|w - w0| / |w0| is small: the paper's words), or random
    (the control)."""
    scope: str = "global"
    """global: one threshold for all layers; layer: every layer loses the same fraction of its survivors."""


NOT_SETTINGS = ("workers", "evaluation_timeout", "threads", "data_dir", "out", "force", "tensorboard", "retry_failed")
OptionsT = TypeVar("OptionsT", bound=Options)


def make_problem(options: ProblemOptions, **given: Any) -> Problem:
    """Returns the problem that the options describe.

    Args:
        options: The options.
        given: Further arguments of the problem.
    """
    from evoprune.problem.problem import Problem
    from evoprune.problem.recipe import Recipe

    problem, recipe = problem_arguments(options)
    return Problem(recipe=Recipe(**recipe), **problem, **given)


def problem_arguments(options: ProblemOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arguments of the problem, data and seed aside, and those of its recipe."""
    from evoprune.problem.recipe import Recipe

    fields = {field.name for field in dataclasses.fields(ProblemOptions)}
    recipe = {field.name for field in dataclasses.fields(Recipe)} & fields
    problem = {name: getattr(options, name) for name in sorted(fields - recipe)}
    return problem, {name: getattr(options, name) for name in sorted(recipe)}


def arguments(function: Callable[..., Any], options: ProblemOptions) -> dict[str, Any]:
    """Returns the options that a function has arguments for, the seed and where to record aside."""
    names = set(inspect.signature(function).parameters) - {"seed", "out", "progress"}
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name in names}
