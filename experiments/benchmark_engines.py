"""Engines side by side, and the loop that a DEAP user writes today, in one run; medians of interleaved repeats.

``loop`` is `torch.nn.utils.prune.custom_from_mask`, `DataLoader` and SGD, one network after another, on one thread and on all
cores, each with the better of 0 and 2 loader workers (whose start is not counted); ratios are to the faster one. Every engine
trains the same masks on the same batches. Perceptrons train on MNIST, convolutional networks on invented images of 3 x 32 x 32.
On a GPU the loop copies each batch from pinned memory, times include all work that was started, and memory is the GPU's.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import evoprune as ep
from evoprune.engines import auto
from evoprune.engines.registry import ENGINES
from evoprune.evaluation.terms import survivor_sums
from evoprune.figures import drawing
from evoprune.problem.network import check_device
from evoprune.runs import records
from evoprune.seeds import batch_order
from evoprune.training.determinism import deterministic
from evoprune.training.loop import train
from evoprune.training.threads import torch_threads

COLUMNS = (
    "model", "engine", "threads", "sparsity", "k", "seconds", "ratio_to_loop", "gemm_fraction", "peak_mb",
    "max_fitness_difference",
)  # fmt: skip
SEED = 7
CPU = torch.device("cpu")
# engines that train one network at a time: the time of several follows from that of a few
MOST_ONE_BY_ONE = 2


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    models: tuple[str, ...] = ("lenet-300-100",)
    """Networks by name, such as lenet-300-100, conv-4 and resnet-8."""
    widths: tuple[int, ...] | None = None
    """Widths of the networks; None: each network's default. The table in the manual has 16 for convolutional ones."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """Fractions of the weights removed."""
    ks: tuple[int, ...] = (1, 16, 64)
    """Numbers of individuals."""
    data_dir: Path | None = None
    """Folder of the data files; None: EVOPRUNE_DATA."""
    batch_size: int = 64
    """Examples a step."""
    steps: int = 60
    """Training steps of a measurement; times are scaled to an epoch of the whole training set."""
    engines: tuple[str, ...] = ("module", "stacked", "sparse", "auto")
    """Engines beside the loop."""
    repeats: int = 3
    """Measurements of each engine at each point, interleaved; the median counts."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of the engines; the loop has one, and all cores."""
    device: str = "cpu"
    """Where networks are trained: cpu or cuda."""
    deterministic: bool = True
    """Deterministic algorithms on a GPU, for loop and engines, as searches have them by default."""
    layer_densities: str = "erk"
    """How survivors spread over the layers: uniform or erk."""
    out: Path = Path("runs/benchmark-engines")
    """Folder for benchmark.csv and benchmark.png."""


@dataclass(frozen=True)
class Point:
    """A point of the grid: masks, and a problem whose epoch is one measurement."""

    problem: ep.Problem
    masks: list[ep.Mask]
    model: str
    sparsity: float
    scale: float
    """Steps of an epoch over steps of a measurement."""


@dataclass(frozen=True)
class Measurement:
    """Seconds of one epoch of ``steps``, magnitude and gradient of the individuals that were trained, and peak memory in MB."""

    seconds: float
    fitness: np.ndarray[Any, Any]
    peak_mb: float


def make_point(problem: ep.Problem, options: BenchmarkOptions, model: str, sparsity: float, k: int, scale: float) -> Point:
    """Returns a point of the grid."""
    rng = np.random.default_rng(0)
    masks = [ep.random_mask(problem.shapes, sparsity, rng, options.layer_densities) for _ in range(k)]
    return Point(problem, masks, model, sparsity, scale)


def train_loop(problem: ep.Problem, mask: ep.Mask, loader_workers: int) -> tuple[float, list[float]]:
    """Trains one network as a DEAP user does today; returns seconds from the first batch on, and magnitude and gradient."""
    network = problem.network()
    device = torch.device(problem.device)
    pruned: list[Any] = [network.get_submodule(name.rpartition(".")[0]) for name in mask.shapes]
    for module, layer in zip(pruned, mask.layers.values(), strict=True):
        prune.custom_from_mask(module, "weight", torch.from_numpy(layer).to(device))  # type: ignore[no-untyped-call]
    recipe = problem.recipe
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=recipe.momentum or 0, weight_decay=recipe.weight_decay
    )
    criterion = nn.CrossEntropyLoss()
    x, y = (tensor[:].cpu() for tensor in problem.part("train"))
    batches = [rows.tolist() for rows in batch_order(len(x), recipe.batch_size, SEED, 0, CPU)]
    loader = DataLoader(
        TensorDataset(x, y), batch_sampler=batches, num_workers=loader_workers, pin_memory=device.type == "cuda"
    )
    gradient, start = torch.zeros((), dtype=torch.float64, device=device), 0.0
    for step, (inputs, targets) in enumerate(loader):
        if step == 0:
            start = now(problem.device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step, len(batches))
        optimizer.zero_grad()
        criterion(network(inputs.to(device, non_blocking=True)), targets.to(device, non_blocking=True)).backward()
        gradient += sum(module.weight_orig.grad.abs().sum() for module in pruned)
        optimizer.step()
    seconds = (now(problem.device) - start) * len(batches) / (len(batches) - 1)
    with torch.no_grad():
        magnitude = sum((module.weight_orig * module.weight_mask).abs().sum().item() for module in pruned)
    return seconds, [magnitude, gradient.item()]


def measure_loop(point: Point, loader_workers: int, threads: int) -> Measurement:
    """Measures the loop."""
    masks = point.masks[:MOST_ONE_BY_ONE]
    toolbox_map: Callable[..., Any] = map
    with torch_threads(threads):
        reset_peak_memory(point.problem.device)
        done = list(toolbox_map(lambda mask: train_loop(point.problem, mask, loader_workers), masks))
    seconds = sum(seconds for seconds, _ in done) * len(point.masks) / len(masks)
    return Measurement(seconds, np.array([fitness for _, fitness in done]), peak_memory(point.problem.device))


def measure_engine(point: Point, name: str, threads: int) -> Measurement:
    """Measures an engine: building the population, and training it."""
    engine = ENGINES[name]
    masks = point.masks if engine.capacity is None else point.masks[:MOST_ONE_BY_ONE]
    fitness: list[Any] = []
    with torch_threads(threads):
        device = point.problem.device
        reset_peak_memory(device)
        seconds = 0.0
        for group in [masks] if engine.capacity is None else [[mask] for mask in masks]:
            start = now(device)
            population = engine.build(point.problem, group)
            built = now(device)
            trained = train(population, point.problem, 1, SEED)
            # an epoch has more steps than are measured, but is built once
            seconds += (now(device) - built) + (built - start) / point.scale
            magnitude = survivor_sums(population, [weight.abs() for weight in population.weights])
            fitness += zip(magnitude, survivor_sums(population, trained.gradients), strict=True)
    return Measurement(seconds * len(point.masks) / len(masks), np.array(fitness), peak_memory(device))


def measure_point(point: Point, options: BenchmarkOptions) -> dict[tuple[str, int], list[Measurement]]:
    """Measures every engine, interleaved; the loop with the better of 0 and 2 loader workers; by engine and threads."""
    chosen = auto.choose(point.problem, point.sparsity, len(point.masks))
    cores = sorted({1, os.cpu_count() or 1})
    found: dict[tuple[str, int], list[Measurement]] = {}
    for _ in range(options.repeats):
        for threads in cores:
            for workers in (0, 2):
                found.setdefault((f"loop{workers}", threads), []).append(measure_loop(point, workers, threads))
        for threads in options.threads:
            for name in [name for name in options.engines if name != "sparse" or options.device == "cpu"]:
                engine = chosen if name == "auto" else name
                found.setdefault((name, threads), []).append(measure_engine(point, engine, threads))
    loops = {
        ("loop", threads): min((found.pop((f"loop{workers}", threads)) for workers in (0, 2)), key=median_seconds)
        for threads in cores
    }
    return {**loops, **found}


def median_seconds(measurements: Sequence[Measurement]) -> float:
    """Returns the median of the seconds."""
    return statistics.median(m.seconds for m in measurements)


def rows_of(point: Point, found: dict[tuple[str, int], list[Measurement]], gemm: float) -> list[dict[str, Any]]:
    """Returns a point's rows of the table; ``gemm`` in FLOP/s."""
    reference = found.get(("module", 1), next(iter(found.values())))[0].fitness
    fastest = min(median_seconds(measurements) for (name, _), measurements in found.items() if name == "loop")
    rows = []
    for (engine, threads), measurements in found.items():
        seconds = median_seconds(measurements)
        shared = min(len(reference), len(measurements[0].fitness))
        difference = np.abs(measurements[0].fitness[:shared] / reference[:shared] - 1).max()
        rate = sum(training_flops(point.problem, mask) for mask in point.masks) / seconds
        values = (
            point.model,
            engine,
            threads,
            point.sparsity,
            len(point.masks),
            seconds * point.scale,
            fastest / seconds,
            rate / gemm,
            max(m.peak_mb for m in measurements),
            float(difference),
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def training_flops(problem: ep.Problem, mask: ep.Mask) -> float:
    """Returns the operations of an epoch on surviving weights: forward, and gradients but for the first layer's input."""
    counts = [int(layer.sum()) * problem.uses[name] for name, layer in mask.layers.items()]
    return 2 * len(problem.data.train[0]) * (3 * sum(counts) - counts[0])


def gemm_rate(threads: int, device: str) -> float:
    """Returns the device's rate of dense products, in FLOP/s: the best of several."""
    n = 1024 if device == "cpu" else 4096
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    with torch_threads(threads):
        times = []
        for _ in range(10):
            start = now(device)
            torch.mm(a, b)
            times.append(now(device) - start)
    return 2 * n**3 / min(times)


def now(device: str) -> float:
    """Returns the time in seconds once the device has done all that was started."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak_memory(device: str) -> None:
    """Lets Linux count the peak of the resident memory anew, or torch that of a GPU's."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak_memory(device: str) -> float:
    """Returns the peak of the resident or a GPU's memory in MB since it was reset; NaN if the system does not tell."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 1e6
    path = Path("/proc/self/status")
    if not path.exists():
        return float("nan")
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Draws how many times as fast as the faster loop each engine is, against sparsity; a panel for each network and K."""
    panels = sorted({(row["model"], row["k"]) for row in rows}, key=lambda panel: (panel[0] != "lenet-300-100", panel))
    with drawing.importing_matplotlib():
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(3.6 * len(panels) + 1.2, 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    lines = [
        (name, threads) for name, threads in dict.fromkeys((row["engine"], row["threads"]) for row in rows) if name != "auto"
    ]
    for ax, (model, k) in zip(axes, panels, strict=True):
        for i, (engine, threads) in enumerate(lines):
            mine = [
                row for row in rows if (row["model"], row["k"], row["engine"], row["threads"]) == (model, k, engine, threads)
            ]
            positions = [f"{row['sparsity']:.0%}".replace("%", " %") for row in mine]
            label = f"{engine}, {threads} thread{'s' * (threads > 1)}"
            ax.plot(positions, [row["ratio_to_loop"] for row in mine], marker="osDv^<>Xph"[i % 10], label=label)
        ax.axhline(1.0, color="black", linewidth=0.8)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_title(f"{model}, K = {k}")
        ax.set_xlabel("sparsity")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("times as fast as the faster loop")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def make_problem(model: str, options: BenchmarkOptions) -> tuple[ep.Problem, int]:
    """Returns a problem whose epoch is one measurement, and the steps of an epoch of the whole training set."""
    recipe, part = ep.Recipe(epochs=1, batch_size=options.batch_size), options.steps * options.batch_size
    if not model.startswith(("conv", "resnet")):
        whole = ep.Problem(model, "mnist", recipe, data_dir=options.data_dir, widths=options.widths)
        x, y = whole.data.train
        data = replace(whole.data, train=(x[:part], y[:part]))
        network, exclude, loss = whole.network(), whole.options.exclude, whole.loss_name
        made = ep.Problem(network, data, recipe, exclude=exclude, loss=loss, device=options.device)
        return made, -(-len(x) // options.batch_size)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(part, 3, 32, 32, generator=generator), torch.randint(10, (part,), generator=generator)
    few = (x[: options.batch_size], y[: options.batch_size])
    widths = options.widths or (16,)
    made = ep.Problem(model, ep.Data((x, y), few, few), recipe, widths=widths, device=options.device)
    return made, -(-45_000 // options.batch_size)


def main(options: BenchmarkOptions) -> None:
    """Runs the benchmark, and prints and saves its table and figure."""
    check_device(options.device)
    with deterministic(options.device, options.deterministic):
        run(options)


def run(options: BenchmarkOptions) -> None:
    """Runs the benchmark under torch's settings as they are."""
    gemm = gemm_rate(1, options.device)
    print(f"dense products: {gemm / 1e9:.0f} GFLOP/s with one thread")
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    print(" ".join(f"{column:>14}" for column in COLUMNS))
    total = len(options.models) * len(options.ks) * len(options.sparsities)
    with tqdm(total=total, unit="point", disable=not sys.stderr.isatty()) as bar:
        for model in options.models:
            problem, epoch_steps = make_problem(model, options)
            for k in options.ks:
                for sparsity in options.sparsities:
                    point = make_point(problem, options, model, sparsity, k, epoch_steps / options.steps)
                    new = rows_of(point, measure_point(point, options), gemm)
                    rows += new
                    for row in new:
                        tqdm.write(" ".join(f"{v:14.4g}" if isinstance(v, float) else f"{v:>14}" for v in row.values()))
                    records.write_table(options.out / "benchmark.csv", COLUMNS, rows)
                    bar.update()
    drawn = drawing.save([(options.out / "benchmark.png", lambda: draw(rows))])
    print(f"written to {options.out}: {', '.join(['benchmark.csv', *(path.name for path in drawn)])}")


if __name__ == "__main__":
    guard(lambda: main(parse(BenchmarkOptions, __doc__)))
