"""What the experiment scripts share: options, the course of a run, and its messages."""

from __future__ import annotations

import atexit
import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evoprune import drawing, signals, streams
from evoprune.errors import EvopruneError, RunError
from evoprune.files import write_atomically

# What takes long to import is imported in functions: until scripts come to main, Ctrl-C shows a traceback.
if TYPE_CHECKING:
    from evoprune.problem import Problem
    from evoprune.result import Result


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
T = TypeVar("T")
BROKEN_PIPE = 141  # as a shell has it of a process that nobody reads from


def make_problem(options: ProblemOptions, **given: Any) -> Problem:
    """Returns the problem that the options describe.

    Args:
        options: The options.
        given: Further arguments of the problem.
    """
    from evoprune.problem import Problem
    from evoprune.recipe import Recipe

    problem, recipe = problem_arguments(options)
    return Problem(recipe=Recipe(**recipe), **problem, **given)


def problem_arguments(options: ProblemOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arguments of the problem, data and seed aside, and those of its recipe."""
    from evoprune.recipe import Recipe

    fields = {field.name for field in dataclasses.fields(ProblemOptions)}
    recipe = {field.name for field in dataclasses.fields(Recipe)} & fields
    problem = {name: getattr(options, name) for name in sorted(fields - recipe)}
    return problem, {name: getattr(options, name) for name in sorted(recipe)}


def arguments(function: Callable[..., Any], options: ProblemOptions) -> dict[str, Any]:
    """Returns the options that a function has arguments for, the seed and where to record aside."""
    names = set(inspect.signature(function).parameters) - {"seed", "out", "progress"}
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name in names}


def main(
    method: str,
    kind: type[OptionsT] | Callable[[], type[OptionsT]],
    search: Callable[[Problem, OptionsT, Path], Result],
    description: str | None,
) -> None:
    """Runs an experiment script: options, search, result, figures.

    Ends the process with status 0; 1 for an error of the run, 2 for one of the user's, 130 for Ctrl-C, 143 for SIGTERM.

    Args:
        method: Name of the method, as in records.
        kind: The script's options, or a function that makes their class from modules that take long to import.
        search: Does the search and records it in a run folder.
        description: For ``--help``.
    """
    guard(lambda: _experiment(method, kind, search, description))


def parse(kind: type[T], description: str | None, **how: Any) -> T:
    """Returns the options of the command line."""
    import tyro

    options: T = tyro.cli(kind, description=description, **how)
    return options


def guard(script: Callable[[], None]) -> None:
    """Runs a script; an error that a user can mend, and Ctrl-C, end the process with one message and a status."""
    streams.prepare()
    warnings.formatwarning = _one_line
    atexit.register(signals.ignore_interrupts)
    try:
        try:
            with signals.interruptible():
                script()
        finally:
            if streams.close_broken():
                sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt as interrupt:
        signals.end_at_once()
        _end(signals.RESUMES, 143 if isinstance(interrupt, signals.Terminated) else signals.INTERRUPTED)
    except (EvopruneError, OSError) as error:
        _end(f"error: {error}", 1 if isinstance(error, RunError) else 2)


def _one_line(message: Warning | str, *place: object, **line: object) -> str:
    """Returns a warning without the place in the code that warns, which tells the user of a script nothing."""
    return f"warning: {message}\n"


def _end(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    streams.close_broken()
    sys.exit(status)


def _experiment(
    method: str,
    kind: type[OptionsT] | Callable[[], type[OptionsT]],
    search: Callable[[Problem, OptionsT, Path], Result],
    description: str | None,
) -> None:
    with signals.nothing_begun():
        wanted: type[OptionsT] = kind if isinstance(kind, type) else kind()
        options = parse(wanted, description)
        from evoprune import records
        from evoprune.run import settings_hash

        values = dataclasses.asdict(options)
        settings = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
        shown_folder = options.out or Path("runs", f"{method}-{options.data}-{settings_hash(settings)}")
        folder = shown_folder.absolute()
        problem = make_problem(options, data=options.data, seed=options.seed)
    config = problem.config()
    resolved = {**config, **config["recipe"]}
    facts = {name: resolved[name] for name in values if name in resolved}
    shown = {"method": method, **values, **facts, "out": shown_folder}
    print("\n".join(f"{name:20} {value}" for name, value in shown.items()), end="\n\n", flush=True)
    anew = options.force or getattr(options, "retry_failed", False)
    finished = (folder / "result.json").exists() and not anew
    result = search(problem, options, folder)
    if finished:
        print(f"{shown_folder} is finished already:")
    with records.as_written(folder / "result.json"):
        _print_result(records.read_json(folder / "result.json") or result.summary)
    files = ["result.json", "mask.npz", "model.safetensors", *_draw_figures(folder, anew=not finished)]
    print(f"written to {shown_folder}: {', '.join(files)}")


def _draw_figures(folder: Path, anew: bool) -> list[str]:
    """Draws a run's figures, where any is missing, and returns the names of their files; what fails is a warning."""
    try:
        with drawing.importing_matplotlib():
            from evoprune import plot
        names = [f"{name}.png" for name in plot.figures_of(folder)]
        if anew or not all((folder / name).exists() for name in names):
            plot.save_figures(folder)
    except Exception as error:  # noqa: BLE001 - the result is there
        drawing.warn("the figures", error)
        return []
    return [name for name in names if (folder / name).exists()]


def _print_result(result: dict[str, Any]) -> None:
    shown = {name: value for name, value in result.items() if not isinstance(value, dict)}
    print("\n".join(f"{name:22} {value}" for name, value in shown.items()))
    for role, facts in {"winner": result, **result["controls"]}.items():
        numbers = [f"{name} {facts[f'test_{name}']:.4f}" for name in ("accuracy", "loss") if facts[f"test_{name}"] is not None]
        print(f"test set, {role:11} {', '.join(numbers) or 'diverged'}")
    for count, what in (
        ("failed", "failed; see evaluations.csv"),
        ("machine_failures", "were not judged, because the machine failed; --retry-failed evaluates them again"),
        ("no_better_than_chance", "were no better than chance"),
    ):
        if result.get(count):
            print(f"warning: {result[count]} of {result.get('evaluations', result['k'])} masks {what}")
    if result.get("winner_status", "ok") != "ok" or result["better_than_chance"] is False:
        print("warning: the winner is no better than chance; lower --lr, or choose by --fitness loss")
    if result["collapse"]:
        print(f"warning: the winner's mask cuts off: {result['collapse']}")


@dataclass(frozen=True)
class PlotOptions:
    """Options of every plot."""

    run: Path
    """Folder of the run."""
    out: Path | None = None
    """File to write, with an ending such as .png or .pdf; None: a PNG in the run's folder."""


def plot_main(name: str, description: str | None) -> None:
    """Draws one figure of a run, and says where it is; a user's error ends the process with status 2."""
    guard(lambda: _plot(name, description))


def _plot(name: str, description: str | None) -> None:
    with signals.nothing_begun():
        import tyro

        options = parse(PlotOptions, description, config=(tyro.conf.PositionalRequiredArgs,))
        with drawing.importing_matplotlib():
            from evoprune import plot
    path = options.out or options.run / f"{name}.png"
    try:
        content = drawing.to_bytes(lambda: plot.FIGURES[name](options.run), path.suffix.removeprefix(".").lower() or "png")
    except Exception as error:
        raise drawing.cannot_draw(str(path), error) from error
    if options.out is None:
        write_atomically(path, content)  # follows no link that lies there
    else:
        path.write_bytes(content)
    print(path)
