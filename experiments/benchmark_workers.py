"""Workers side by side: the same generation evaluated serially, and by 1, 2, ... processes of each kind; medians.

Each measurement is a separate run, and the runs take turns; the time to make the problem is not counted. `work` is the time of
an evaluation itself, and `overhead` the other time of all processes: packing, the wire, idling at the end of a generation.
"""

from evoprune.cli.forms import parse
from evoprune.cli.guard import guard
from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # Ctrl-C while what follows is imported

import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

import evoprune as ep
from evoprune.evaluation.evaluator import Evaluator
from evoprune.runs import records
from evoprune.workers.launcher import under_own_launcher
from evoprune.workers.policy import evaluate

COLUMNS = (
    "workers", "seconds", "over_one", "over_serial", "work_ms", "overhead_ms", "request_bytes", "reply_bytes", "allowed_bytes",
    "same",
)  # fmt: skip

SERIAL = "serial"
# The kind of workers, and their number.
Cell: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class WorkerOptions:
    """Options of the benchmark."""

    processes: tuple[int, ...] = tuple(range(1, (os.cpu_count() or 1) + 1))
    """Numbers of evaluating processes."""
    kinds: tuple[str, ...] = ("scoop", "dask", "pool")
    """Kinds of workers: scoop, dask (a local cluster), pool."""
    model: str = "lenet-300-100"
    """Network by name."""
    data: str = "mnist"
    """Data set."""
    data_dir: Path | None = None
    """Folder of the data files; None: EVOPRUNE_DATA."""
    sparsity: float = 0.98
    """Fraction of the weights removed."""
    masks: int = 32
    """Masks in a generation."""
    chunk_size: int = 8
    """Masks that are trained together."""
    fitness_epochs: int = 1
    """Epochs of the brief training."""
    generations: int = 2
    """Generations that are measured in a run, after one that is not."""
    repeats: int = 3
    """Runs of each number of processes, interleaved; the median counts."""
    out: Path = Path("runs/benchmark-workers")
    """Folder for benchmark.csv."""
    measure: Path | None = None
    """File for the measurements of this process with --workers; the benchmark starts such processes."""
    workers: str = "auto"
    """The processes that evaluate under --measure."""


@dataclass(frozen=True)
class Measurement:
    """A generation: wall seconds, seconds of its evaluations, bytes of requests and replies, and the fitness terms."""

    wall: float
    work: float
    requests: int
    replies: int
    terms: list[dict[str, float]]


def measure(options: WorkerOptions) -> list[Measurement]:
    """Measures generations with the workers that this process has."""
    recipe = ep.Recipe(epochs=options.fitness_epochs)
    problem = ep.Problem(options.model, options.data, recipe, seed=0, data_dir=options.data_dir)
    toolbox = ep.make_toolbox(
        problem,
        sparsity=options.sparsity,
        fitness_epochs=options.fitness_epochs,
        chunk_size=options.chunk_size,
        workers=options.workers,
    )
    evaluator: Evaluator = toolbox.evaluate.func
    run_chunks = functools.partial(evaluate, toolbox.map.func.workers)
    for _ in range(2):  # every worker makes the problem
        evaluator.evaluate(toolbox.population(n=options.masks), run_chunks)
    found = []
    for _ in range(options.generations):
        masks = toolbox.population(n=options.masks)
        before, start = wire(), time.perf_counter()
        evaluations = evaluator.evaluate(masks, run_chunks)
        wall = time.perf_counter() - start
        requests, replies = (now - then for now, then in zip(wire(), before, strict=True))
        terms = [dict(evaluation.terms) for evaluation in evaluations]
        found.append(Measurement(wall, sum(evaluation.seconds for evaluation in evaluations), requests, replies, terms))
    return found


def wire() -> tuple[int, int]:
    """Returns the bytes of requests and replies so far; 0 in a process without workers."""
    if not under_own_launcher():
        return 0, 0
    from scoop import _control

    communicator = _control.execQueue.socket
    return communicator.sent, communicator.received


def start(options: WorkerOptions, kind: str, processes: int, folder: Path) -> list[Measurement]:
    """Measures in a separate run."""
    path = folder / "measured.json"
    launcher = ["-m", "evoprune.scoop", "--quiet", "-n", str(processes)] if kind == "scoop" else []
    workers = f"{kind}:{processes}" if kind in ("dask", "pool") else kind
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(options).items() if name in PASSED]
    data = [] if options.data_dir is None else [f"--data-dir={options.data_dir.resolve()}"]
    subprocess.run(
        [sys.executable, *launcher, __file__, *arguments, *data, f"--measure={path}", f"--workers={workers}"], check=True
    )
    return [Measurement(**fields) for fields in json.loads(path.read_text())]


PASSED = ("model", "data", "sparsity", "masks", "chunk_size", "fitness_epochs", "generations")


def row_of(options: WorkerOptions, cell: Cell, found: dict[Cell, list[Measurement]], weights: int) -> dict[str, Any]:
    """Returns a row of the table; the speed-up is over one process of the same kind, the least that was measured."""
    (kind, processes), mine = cell, found[cell]
    one = min(c for c in found if c[0] == kind)
    wall, wall_of_one = (statistics.median(m.wall for m in found[c]) for c in (cell, one))
    idle = statistics.median(processes * m.wall - m.work for m in mine)
    chunks = -(-options.masks // options.chunk_size)
    values = (
        kind if kind == SERIAL else f"{kind}:{processes}",
        wall,
        wall_of_one / wall,
        statistics.median(m.wall for m in found[SERIAL, 1]) / wall,
        1000 * statistics.median(m.work for m in mine) / options.masks,
        1000 * idle / options.masks,
        statistics.median(m.requests for m in mine) / options.masks,
        statistics.median(m.replies for m in mine) / options.masks,
        1.1 * weights / 8 + 1000 * chunks / options.masks,
        all(m.terms == serial.terms for m, serial in zip(mine, found[SERIAL, 1], strict=True)),
    )
    return dict(zip(COLUMNS, values, strict=True))


def main(options: WorkerOptions) -> None:
    """Runs the benchmark, and prints and saves its table."""
    if options.measure is not None:
        options.measure.write_text(json.dumps([asdict(measurement) for measurement in measure(options)]))
        return
    cells: list[Cell] = [(SERIAL, 1), *itertools.product(options.kinds, options.processes)]
    found: dict[Cell, list[Measurement]] = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=options.repeats * len(cells), unit="run") as bar:
        for _ in range(options.repeats):
            for cell in cells:
                found[cell] += start(options, *cell, Path(folder))
                bar.update()
    weights = ep.Problem(options.model, options.data, seed=0, data_dir=options.data_dir).prunable_count
    rows = [row_of(options, cell, found, weights) for cell in cells]
    print(" ".join(f"{column:>13}" for column in COLUMNS))
    for row in rows:
        print(" ".join(f"{value:13.4g}" if isinstance(value, float) else f"{value!s:>13}" for value in row.values()))
    options.out.mkdir(parents=True, exist_ok=True)
    records.write_table(options.out / "benchmark.csv", COLUMNS, rows)
    wall = np.array([m.wall for m in found[SERIAL, 1]])
    print(f"repeats of a cell differ by up to {wall.max() / wall.min() - 1:.0%}; written to {options.out}: benchmark.csv")


if __name__ == "__main__":
    guard(lambda: main(parse(WorkerOptions, __doc__)))
