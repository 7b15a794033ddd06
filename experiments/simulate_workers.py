"""How far would more workers help? The schedule with up to 1,000 of them is simulated from costs that are measured here.

This process measures the time to evaluate a chunk (a fixed part, a part for each mask, and the spread), and the work of the
main process: to breed a child, send a chunk, take and record a reply, and close a generation. --wire gives the time on the
wire. It simulates generations of --offspring masks, generations that grow with the workers, and a steady state.
"""

from evoprune.cli.forms import parse
from evoprune.cli.guard import guard
from evoprune.runs.evaluations import Evaluations
from evoprune.runs.run import Run
from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # Ctrl-C while what follows is imported

import copy
import heapq
import math
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np

import evoprune as ep
from evoprune import seeds
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.job import Job
from evoprune.figures import drawing
from evoprune.runs import records
from evoprune.runs.journal import Memory
from evoprune.search.course import prepare_evaluator
from evoprune.search.evolution.checkpoint import save_state
from evoprune.search.evolution.evolve import Evolve, EvolveOptions
from evoprune.search.evolution.survival import improve, replace
from evoprune.search.evolution.variation import vary
from evoprune.search.execution import Execution
from evoprune.search.generations import log_generation
from evoprune.search.session import Evaluating, Session
from evoprune.workers.base import Returned
from evoprune.workers.chunks import equal_pieces
from evoprune.workers.serial import Serial
from evoprune.workers.wire import evaluations_of, pack_masks

COLUMNS = ("schedule", "workers", "offspring", "masks_per_second", "of_ideal", "workers_busy", "main_busy", "bottleneck")
FIXED, GROWING, STEADY = "generations of equal size", "generations that grow with the workers", "steady state"


@dataclass(frozen=True)
class SimulationOptions:
    """Options of the simulation."""

    workers: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    """Numbers of workers."""
    model: str = "lenet-300-100"
    """Network by name."""
    data: str = "mnist"
    """Data set."""
    data_dir: Path | None = None
    """Folder of the data files; None: EVOPRUNE_DATA."""
    sparsity: float = 0.98
    """Fraction of the weights removed."""
    offspring: int = 64
    """Children in a generation, unless it grows."""
    chunk_size: int = 8
    """Masks that are evaluated together."""
    wire: float = 0.001
    """Seconds that a request and its reply take on the wire."""
    repeats: int = 5
    """Measurements of each cost."""
    generations: int = 20
    """Generations that are simulated."""
    seed: int = 0
    """Seed of the simulated spread."""
    out: Path = Path("runs/simulate-workers")
    """Folder for simulation.csv and simulation.png."""


@dataclass(frozen=True)
class Costs:
    """Costs in seconds.

    Attributes:
        chunk: To evaluate a chunk, without its masks.
        mask: To evaluate each of its masks.
        spread: Standard deviation of the logarithm of the time of an evaluation.
        breed: Of the main process, for a child.
        send: Of the main process, for a chunk.
        take: Of the main process, for the reply of a chunk.
        close: Of the main process, for a generation.
        wire: Of a request and its reply on the wire.
    """

    chunk: float
    mask: float
    spread: float
    breed: float
    send: float
    take: float
    close: float
    wire: float

    def mean(self, masks: int) -> float:
        """Returns the mean time to evaluate a chunk."""
        return (self.chunk + self.mask * masks) * math.exp(self.spread**2 / 2)

    def evaluation(self, masks: int, rng: np.random.Generator) -> float:
        """Draws the time to evaluate a chunk."""
        return float((self.chunk + self.mask * masks) * np.exp(rng.normal(0.0, self.spread)))


@dataclass(frozen=True)
class Outcome:
    """Masks per second, and the fractions of the time in which workers and main process were busy."""

    rate: float
    workers_busy: float
    main_busy: float


def simulate_generations(
    costs: Costs, workers: int, offspring: int, size: int, count: int, rng: np.random.Generator
) -> Outcome:
    """Simulates generations one after another: the main process breeds, sends, and waits for the last reply.

    Args:
        costs: The costs.
        workers: Number of workers.
        offspring: Masks in a generation.
        size: Most masks in a chunk.
        count: Generations.
        rng: Source of the spread.
    """
    lengths = [len(piece) for piece in equal_pieces([range(size)] * (offspring // size) or [range(offspring)], workers)]
    total = worked = spent = 0.0
    for _ in range(count):
        clock = costs.breed * sum(lengths)
        spent += clock
        free = [0.0] * workers
        replies = []
        for length in lengths:
            clock += costs.send
            duration = costs.evaluation(length, rng)
            end = max(clock, heapq.heappop(free)) + costs.wire + duration
            heapq.heappush(free, end)
            replies.append(end)
            worked += duration
        for reply in sorted(replies):
            clock = max(clock, reply) + costs.take
        spent += len(lengths) * (costs.send + costs.take) + costs.close
        total += clock + costs.close
    return Outcome(count * sum(lengths) / total, worked / (workers * total), spent / total)


def simulate_steady(costs: Costs, workers: int, offspring: int, size: int, count: int, rng: np.random.Generator) -> Outcome:
    """Simulates a steady state: after each reply, the main process breeds and sends another chunk."""
    clock = worked = spent = 0.0
    arrived = 0
    each = costs.breed * size + costs.send
    replies: list[float] = []

    def send() -> None:
        nonlocal clock, worked, spent
        clock, spent = clock + each, spent + each
        duration = costs.evaluation(size, rng)
        worked += duration
        heapq.heappush(replies, clock + costs.wire + duration)

    for _ in range(workers):
        send()
    while arrived < count * offspring:
        clock = max(clock, heapq.heappop(replies)) + costs.take
        spent += costs.take
        before, arrived = arrived // offspring, arrived + size
        if arrived // offspring > before:
            clock, spent = clock + costs.close, spent + costs.close
        send()
    return Outcome(arrived / clock, min(1.0, worked / (workers * clock)), min(1.0, spent / clock))


def bottleneck(outcome: Outcome) -> str:
    """Names the part that limits the rate."""
    if outcome.workers_busy > 0.9:
        return "workers"
    return "main process" if outcome.main_busy > 0.9 else "waiting for the last of a generation"


def measure(options: SimulationOptions) -> tuple[Costs, dict[int, float]]:
    """Measures the costs; returns them, and the median seconds of a chunk by its number of masks."""
    problem = ep.Problem(options.model, options.data, ep.Recipe(epochs=1), seed=0, data_dir=options.data_dir)
    evolution = ep.Evolution(k=options.offspring // 2, offspring=options.offspring, generations=100)
    chosen = EvolveOptions(sparsity=options.sparsity, chunk_size=options.chunk_size, trained_bests=0, evolution=evolution)
    evaluator = prepare_evaluator(Evolve, problem, 0, chosen, Execution())
    session = Session(problem, Memory({"threads": 1}), 0, Execution(), Evaluating(evaluator, Serial()))
    rng = seeds.generator(0, "masks")
    sizes = sorted({1, max(1, options.chunk_size // 2), options.chunk_size})
    times: dict[int, list[float]] = {size: [] for size in sizes}
    evaluated = []
    for _ in range(options.repeats):
        for size in sizes:
            masks = [ep.random_mask(problem.shapes, options.sparsity, rng, "varied") for _ in range(size)]
            start = time.perf_counter()
            evaluated = evaluate_chunk(evaluator.job, masks)
            times[size].append(time.perf_counter() - start)
    medians = {size: statistics.median(found) for size, found in times.items()}
    mask, chunk = np.polyfit(list(medians), list(medians.values()), 1)
    spread = statistics.median(float(np.std(np.log(found))) for found in times.values())
    content = [asdict(evaluation) for evaluation in evaluated]
    with tempfile.TemporaryDirectory() as folder:
        breed, close = measure_main_process(session, chosen, Path(folder))
        rows = Evaluations(Path(folder, "evaluations.csv"))
        take = median_time(options.repeats, lambda: take_reply(pickle.dumps(content), masks, evaluator.job, rows))
    send = median_time(options.repeats, lambda: pickle.dumps(pack_masks(masks)))
    costs = Costs(max(0.0, float(chunk)), float(mask), float(spread), breed, send, take, close, options.wire)
    return costs, medians


def take_reply(content: bytes, masks: Sequence[ep.Mask], job: Job, rows: Evaluations) -> None:
    """Unpickles, checks and records a reply, as the main process does."""
    evaluations = evaluations_of(Returned(pickle.loads(content)), masks, job)  # noqa: S301 - made above
    rows.append(1, evaluations)


def measure_main_process(session: Session, options: EvolveOptions, folder: Path) -> tuple[float, float]:
    """Returns the seconds to breed a child, and to close a generation: selection, statistics, checkpoint."""
    search, evolution = Evolve(session, options), options.evolution
    masks = search.ask()
    session.evaluate(masks, 0)
    search.tell(masks)
    state, operators = search.state, search.operators
    breed = median_time(3, lambda: vary(state, operators, evolution)) / evolution.children
    children, known = vary(state, operators, evolution), dict(session.evaluator.known)
    like = next(iter(known.values()))
    for i, child in enumerate(children):  # as if they had been evaluated
        child.fitness.values = (-1.0 - 0.01 * i,)
        known[child.hash] = replace_fields(like, mask=child.hash)

    run = Run(folder, "evolve", {}, {})

    def close() -> None:
        after = copy.deepcopy(state)
        after.population = replace(after, children, operators, evolution)
        improve(after, children, 1)
        log_generation(after.logbook, after.gen, after.population, after.bests[-1][1], known, {c.hash for c in children})
        save_state(run, after)

    return breed, median_time(3, close)


def median_time(repeats: int, work: Callable[[], Any]) -> float:
    """Returns the median seconds of some work."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def simulate(options: SimulationOptions, costs: Costs) -> list[dict[str, Any]]:
    """Returns the rows of the table."""
    rows = []
    for workers in options.workers:
        growing = max(options.offspring, workers * options.chunk_size)
        for schedule, offspring in ((FIXED, options.offspring), (GROWING, growing), (STEADY, options.offspring)):
            rng = np.random.default_rng(options.seed)
            run = simulate_steady if schedule == STEADY else simulate_generations
            enough = max(options.generations, -(-10 * workers * options.chunk_size // offspring))  # ten rounds of all workers
            count = enough if schedule == STEADY else options.generations
            found = run(costs, workers, offspring, options.chunk_size, count, rng)
            ideal = workers * options.chunk_size / costs.mean(options.chunk_size)
            values = (
                schedule, workers, offspring, found.rate, found.rate / ideal, found.workers_busy, found.main_busy,
                bottleneck(found),
            )  # fmt: skip
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def draw(rows: Sequence[dict[str, Any]], costs: Costs, options: SimulationOptions) -> Any:
    """Draws masks per second and the workers' busy time against their number, and names the bottleneck where it changes."""
    with drawing.importing_matplotlib():
        from matplotlib.figure import Figure

        from evoprune.figures.styles import BLUE, GREEN, GREY, VERMILLION

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    rate, busy = figure.subplots(1, 2)
    for schedule, color, marker in ((FIXED, BLUE, "o"), (GROWING, VERMILLION, "s"), (STEADY, GREEN, "^")):
        mine = [row for row in rows if row["schedule"] == schedule]
        workers = [row["workers"] for row in mine]
        rate.loglog(workers, [row["masks_per_second"] for row in mine], color=color, marker=marker, label=schedule)
        busy.semilogx(workers, [row["workers_busy"] for row in mine], color=color, marker=marker, label=schedule)
        limited = next((row for row in mine if row["bottleneck"] != "workers"), None)
        if limited is not None:
            busy.annotate(
                limited["bottleneck"], (limited["workers"], limited["workers_busy"]), color=color, fontsize="small",
                textcoords="offset points", xytext=(6, 4),
            )  # fmt: skip
    ideal = [options.chunk_size * n / costs.mean(options.chunk_size) for n in options.workers]
    rate.loglog(options.workers, ideal, color=GREY, linestyle=":", label="all workers always busy")
    rate.set_ylabel("masks a second")
    busy.set_ylabel("fraction of the workers' time spent evaluating")
    busy.set_ylim(0, 1.08)
    for ax in (rate, busy):
        ax.set_xlabel("workers (simulated)")
        ax.grid(alpha=0.3)
    rate.legend(fontsize="small")
    rate.set_title(f"{options.model}, {options.data}, {options.sparsity:.0%} sparse, chunks of {options.chunk_size}")
    busy.set_title(f"equal size: {options.offspring} masks a generation")
    return figure


def main(options: SimulationOptions) -> None:
    """Measures, simulates, and prints and saves table and figure."""
    costs, medians = measure(options)
    seconds = {name: value for name, value in asdict(costs).items() if name != "spread"}
    print(
        "in ms: " + ", ".join(f"{name} {1000 * value:.3g}" for name, value in seconds.items()) + f"; spread {costs.spread:.2f}"
    )
    print("a chunk's evaluation, in s: " + ", ".join(f"{size} masks {seconds:.3g}" for size, seconds in medians.items()))
    rows = simulate(options, costs)
    for row in rows:
        schedule, *numbers, limit = row.values()
        print(f"{schedule:40}" + " ".join(f"{number:8.4g}" for number in numbers) + f"  {limit}")
    options.out.mkdir(parents=True, exist_ok=True)
    records.write_table(options.out / "simulation.csv", COLUMNS, rows)
    drawn = drawing.save([(options.out / "simulation.png", lambda: draw(rows, costs, options))])
    print(f"written to {options.out}: {', '.join(['simulation.csv', *(path.name for path in drawn)])}")


if __name__ == "__main__":
    guard(lambda: main(parse(SimulationOptions, __doc__)))
