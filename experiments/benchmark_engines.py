"""Engines side by side, and the loop that a DEAP user writes today, in one run; medians of interleaved repeats.

``loop`` is `torch.nn.utils.prune.custom_from_mask`, `DataLoader` and SGD, one network after another, with all cores and
the better of 0 and 2 loader workers (whose start is not counted). Every engine trains the same masks on the same batches.
"""

from evoprune.cli.forms import parse
from evoprune.cli.guard import guard
from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # Ctrl-C while what follows is imported

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.terms import survivor_sums
from evoprune.figures import drawing
from evoprune.runs import records
from evoprune.seeds import batch_order
from evoprune.training.loop import train
from evoprune.training.threads import torch_threads

COST_SETTINGS = ("sparsities", "ks", "model", "data", "batch_size", "steps", "repeats", "threads", "layer_densities")
COLUMNS = ("engine", "sparsity", "k", "seconds", "ratio_to_loop", "gemm_fraction", "peak_mb", "max_fitness_difference")
SEED = 7
CPU = torch.device("cpu")
# engines that train one network at a time: the time of several follows from that of a few
MOST_ONE_BY_ONE = 2


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
    """Fractions of the weights removed."""
    ks: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of individuals."""
    model: str = "lenet-300-100"
    """Network by name."""
    data: str = "mnist"
    """Data set."""
    data_dir: Path | None = None
    """Folder of the data files; None: EVOPRUNE_DATA."""
    batch_size: int = 64
    """Examples a step."""
    steps: int = 100
    """Training steps of a measurement; times are scaled to an epoch of the whole training set."""
    repeats: int = 3
    """Measurements of each engine at each point, interleaved; the median counts."""
    threads: int = 1
    """Threads of torch for the engines; the loop has all cores."""
    layer_densities: str = "erk"
    """How survivors spread over the layers: uniform or erk."""
    out: Path = Path("runs/benchmark-engines")
    """Folder for benchmark.csv and benchmark.png."""
    write_costs: bool = False
    """Replace evoprune/engines/costs.json, from which the engine 'auto' chooses."""


@dataclass(frozen=True)
class Point:
    """A point of the grid: masks, and a problem whose epoch is one measurement."""

    problem: ep.Problem
    masks: list[ep.Mask]
    sparsity: float
    scale: float
    """Steps of an epoch over steps of a measurement."""


@dataclass(frozen=True)
class Measurement:
    """Seconds of one epoch of ``steps``, magnitude and gradient of the individuals that were trained, and peak memory in MB."""

    seconds: float
    fitness: np.ndarray[Any, Any]
    peak_mb: float


def make_point(problem: ep.Problem, options: BenchmarkOptions, sparsity: float, k: int, scale: float) -> Point:
    """Returns a point of the grid."""
    rng = np.random.default_rng(0)
    masks = [ep.random_mask(problem.shapes, sparsity, rng, options.layer_densities) for _ in range(k)]
    return Point(problem, masks, sparsity, scale)


def train_loop(problem: ep.Problem, mask: ep.Mask, loader_workers: int) -> tuple[float, list[float]]:
    """Trains one network as a DEAP user does today; returns seconds from the first batch on, and magnitude and gradient."""
    network = problem.network()
    pruned: list[Any] = [network.get_submodule(name.rpartition(".")[0]) for name in mask.shapes]
    for module, layer in zip(pruned, mask.layers.values(), strict=True):
        prune.custom_from_mask(module, "weight", torch.from_numpy(layer))  # type: ignore[no-untyped-call]
    recipe = problem.recipe
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=recipe.momentum or 0, weight_decay=recipe.weight_decay
    )
    criterion = nn.CrossEntropyLoss()
    x, y = problem.part("train")
    batches = [rows.tolist() for rows in batch_order(len(x), recipe.batch_size, SEED, 0, CPU)]
    loader = DataLoader(TensorDataset(x, y), batch_sampler=batches, num_workers=loader_workers)
    gradient, start = 0.0, 0.0
    for step, (inputs, targets) in enumerate(loader):
        if step == 0:
            start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step, len(batches))
        optimizer.zero_grad()
        criterion(network(inputs), targets).backward()
        gradient += sum(module.weight_orig.grad.abs().sum().item() for module in pruned)
        optimizer.step()
    seconds = (time.perf_counter() - start) * len(batches) / (len(batches) - 1)
    with torch.no_grad():
        magnitude = sum((module.weight_orig * module.weight_mask).abs().sum().item() for module in pruned)
    return seconds, [magnitude, gradient]


def measure_loop(point: Point, loader_workers: int) -> Measurement:
    """Measures the loop, with all cores."""
    masks = point.masks[:MOST_ONE_BY_ONE]
    toolbox_map: Callable[..., Any] = map
    with torch_threads(os.cpu_count() or 1):
        reset_peak_memory()
        done = list(toolbox_map(lambda mask: train_loop(point.problem, mask, loader_workers), masks))
    seconds = sum(seconds for seconds, _ in done) * len(point.masks) / len(masks)
    return Measurement(seconds, np.array([fitness for _, fitness in done]), peak_memory())


def measure_engine(point: Point, name: str, threads: int) -> Measurement:
    """Measures an engine: building the population, and training it."""
    engine = ENGINES[name]
    masks = point.masks if engine.capacity is None else point.masks[:MOST_ONE_BY_ONE]
    fitness: list[Any] = []
    with torch_threads(threads):
        reset_peak_memory()
        seconds = 0.0
        for group in [masks] if engine.capacity is None else [[mask] for mask in masks]:
            start = time.perf_counter()
            population = engine.build(point.problem, group)
            built = time.perf_counter()
            trained = train(population, point.problem, 1, SEED)
            # an epoch has more steps than are measured, but is built once
            seconds += (time.perf_counter() - built) + (built - start) / point.scale
            magnitude = survivor_sums(population, [weight.abs() for weight in population.weights])
            fitness += zip(magnitude, survivor_sums(population, trained.gradients), strict=True)
    return Measurement(seconds * len(point.masks) / len(masks), np.array(fitness), peak_memory())


def measure_point(point: Point, options: BenchmarkOptions) -> dict[str, list[Measurement]]:
    """Measures every engine, interleaved; ``loop`` is the better of 0 and 2 loader workers."""
    chosen = auto.choose(point.problem, point.sparsity, len(point.masks))
    found: dict[str, list[Measurement]] = {}
    for _ in range(options.repeats):
        for workers in (0, 2):
            found.setdefault(f"loop{workers}", []).append(measure_loop(point, workers))
        for name in ENGINES:
            found.setdefault(name, []).append(measure_engine(point, name, options.threads))
        found.setdefault("auto", []).append(measure_engine(point, chosen, options.threads))
    loops = [found.pop("loop0"), found.pop("loop2")]
    return {"loop": min(loops, key=median_seconds), **found}


def median_seconds(measurements: Sequence[Measurement]) -> float:
    """Returns the median of the seconds."""
    return statistics.median(m.seconds for m in measurements)


def rows_of(point: Point, found: dict[str, list[Measurement]], gemm: float) -> list[dict[str, Any]]:
    """Returns a point's rows of the table; ``gemm`` in FLOP/s."""
    reference = found["module"][0].fitness
    rows = []
    for engine, measurements in found.items():
        seconds = median_seconds(measurements)
        shared = min(len(reference), len(measurements[0].fitness))
        difference = np.abs(measurements[0].fitness[:shared] / reference[:shared] - 1).max()
        rate = sum(training_flops(point.problem, mask) for mask in point.masks) / seconds
        values = (
            engine,
            point.sparsity,
            len(point.masks),
            seconds * point.scale,
            median_seconds(found["loop"]) / seconds,
            rate / gemm,
        )
        rows.append(dict(zip(COLUMNS, (*values, max(m.peak_mb for m in measurements), float(difference)), strict=True)))
    return rows


def training_flops(problem: ep.Problem, mask: ep.Mask) -> int:
    """Returns the operations of an epoch on surviving weights: forward, and gradients but for the first layer's input."""
    counts = [int(layer.sum()) for layer in mask.layers.values()]
    return 2 * len(problem.data.train[0]) * (3 * sum(counts) - counts[0])


def gemm_rate(threads: int) -> float:
    """Returns this machine's rate of dense products, in FLOP/s: the best of several."""
    n = 1024
    a, b = torch.randn(n, n), torch.randn(n, n)
    with torch_threads(threads):
        times = []
        for _ in range(10):
            start = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def reset_peak_memory() -> None:
    """Lets Linux count the peak of the resident memory anew."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak_memory() -> float:
    """Returns the peak of the resident memory in MB since it was reset; NaN if the system does not tell."""
    path = Path("/proc/self/status")
    if not path.exists():
        return float("nan")
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def draw(rows: Sequence[dict[str, Any]], options: BenchmarkOptions, weights: int, examples: int, gemm: float) -> Any:
    """Draws the seconds of an epoch against survivors, log-log, with the dense bound; a panel for each K."""
    ks = sorted({row["k"] for row in rows})
    with drawing.importing_matplotlib():
        from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(ks), 4.2), layout="constrained")
    axes = figure.subplots(1, len(ks), sharey=True, squeeze=False)[0]
    for ax, k in zip(axes, ks, strict=True):
        for engine, marker in zip(("loop", "module", "stacked", "sparse", "auto"), "sovD+", strict=True):
            mine = [row for row in rows if row["k"] == k and row["engine"] == engine]
            survivors = [(1 - row["sparsity"]) * weights for row in mine]
            ax.loglog(survivors, [row["seconds"] / k for row in mine], marker=marker, label=engine)
        ax.axhline(6 * weights * examples / gemm, color="black", linestyle=":", label="dense products alone")
        ax.set_title(f"K = {k}")
        ax.set_xlabel("survivors an individual")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("seconds an epoch and individual")
    axes[-1].legend(fontsize="small")
    return figure


def fit_costs(rows: Sequence[dict[str, Any]], problem: ep.Problem, steps: int) -> dict[str, list[float]]:
    """Returns each engine's costs: seconds of a step as a sum of non-negative multiples of :func:`auto.features`."""
    costs = {}
    for engine in ENGINES:
        mine = [row for row in rows if row["engine"] == engine]
        features = np.array([auto.features(problem, row["sparsity"], row["k"]) for row in mine])
        seconds = np.array([row["seconds"] / steps for row in mine])
        costs[engine] = nnls(features / seconds[:, None], np.ones(len(mine)))[0].tolist()  # the least relative error
    return costs


def main(options: BenchmarkOptions) -> None:
    """Runs the benchmark, and prints and saves its table and figure."""
    recipe = ep.Recipe(epochs=1, batch_size=options.batch_size)
    whole = ep.Problem(options.model, options.data, recipe, data_dir=options.data_dir)
    x, y = whole.data.train
    epoch_steps = -(-len(x) // options.batch_size)
    part = options.steps * options.batch_size
    problem = ep.Problem(
        whole.network(),
        replace(whole.data, train=(x[:part], y[:part])),
        recipe,
        exclude=whole.options.exclude,
        loss=whole.loss_name,
    )
    gemm = gemm_rate(options.threads)
    print(f"dense products: {gemm / 1e9:.0f} GFLOP/s with {options.threads} thread(s); loop: {os.cpu_count()} threads")
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    print(" ".join(f"{column:>14}" for column in COLUMNS))
    with tqdm(total=len(options.ks) * len(options.sparsities), unit="point", disable=not sys.stderr.isatty()) as bar:
        for k in options.ks:
            for sparsity in options.sparsities:
                point = make_point(problem, options, sparsity, k, epoch_steps / options.steps)
                new = rows_of(point, measure_point(point, options), gemm)
                rows += new
                for row in new:
                    tqdm.write(" ".join(f"{v:14.4g}" if isinstance(v, float) else f"{v:>14}" for v in row.values()))
                records.write_table(options.out / "benchmark.csv", COLUMNS, rows)
                bar.update()
    drawn = drawing.save([(options.out / "benchmark.png", lambda: draw(rows, options, problem.prunable_count, len(x), gemm))])
    if options.write_costs:
        costs = fit_costs(rows, problem, epoch_steps)
        written = {"cpu": costs, "measured_with": {name: asdict(options)[name] for name in COST_SETTINGS}}
        records.write_json(Path(auto.COSTS), written)
    print(f"written to {options.out}: {', '.join(['benchmark.csv', *(path.name for path in drawn)])}")


if __name__ == "__main__":
    guard(lambda: main(parse(BenchmarkOptions, __doc__)))
