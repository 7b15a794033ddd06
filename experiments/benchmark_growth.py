"""Growth with the population and the weights: all that an evolution does in a generation, beside its evaluation.

`generation` is a generation of `evolve` with run folder and checkpoint, but with workers that invent the evaluations; the other
rows are its parts. `share` is the part of the evaluation's time, which is that of training as many masks briefly. The last
columns are the ratios of the times at the largest and the smallest K, and at the most and the fewest weights.
"""

from evoprune.cli.forms import parse
from evoprune.cli.guard import guard
from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # Ctrl-C while what follows is imported

import copy
import ctypes
import math
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from deap import tools
from tqdm import tqdm

import evoprune as ep
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.evaluation import OK, Evaluation
from evoprune.evaluation.terms import BUILT_IN_TERMS
from evoprune.masks.evidence import Evidence
from evoprune.masks.overlap import chance_diversity, diversity, layer_counts
from evoprune.operators.crossover import CROSSOVERS
from evoprune.operators.mutation import MUTATIONS, shrink
from evoprune.options import make
from evoprune.runs import records
from evoprune.runs.journal import open_journal
from evoprune.search.course import prepare_evaluator, settings_of
from evoprune.search.evolution.checkpoint import pack, save_state
from evoprune.search.evolution.evolve import Evolve, EvolveOptions
from evoprune.search.evolution.survival import improve, replace
from evoprune.search.execution import Execution
from evoprune.search.generations import log_generation
from evoprune.search.session import Evaluating, Session
from evoprune.workers.base import Outcome, Returned

COLUMNS = ("part", "weights", "k", "seconds", "share", "added_mb")
INPUTS, CLASSES = 784, 10
EVALUATION, GENERATION = "evaluation", "generation"
MB = 1e6

# Prepares a measurement, and returns the function that is measured.
Part: TypeAlias = Callable[["Point"], Callable[[], object]]


@dataclass(frozen=True)
class GrowthOptions:
    """Options of the benchmark."""

    weights: tuple[int, ...] = (1_000_000, 10_000_000)
    """Numbers of prunable weights, about: those of a perceptron with two hidden layers of one width."""
    ks: tuple[int, ...] = (16, 64)
    """Masks of the population, and children of a generation."""
    sparsity: float = 0.99
    """Fraction of the weights removed."""
    examples: int = 10_000
    """Invented training examples; the time of an evaluation is about proportional."""
    batch_size: int = 64
    """Examples a step."""
    evaluated: int = 8
    """Masks that are trained to time the evaluation, as one chunk; the time is scaled to K."""
    repeats: int = 3
    """Measurements of each part, and generations; the median counts."""
    out: Path = Path("runs/benchmark-growth")
    """Folder for growth.csv."""


@dataclass
class Point:
    """Masks with fitness and evidence, and a search whose generations are measured.

    Attributes:
        search: An evolution after its first generation.
        masks: The masks of its population.
        rng: Source of the draws.
    """

    search: Evolve
    masks: list[ep.Mask]
    rng: np.random.Generator

    @property
    def session(self) -> Session:
        """The session of the search."""
        return self.search.session

    def clones(self) -> list[ep.Mask]:
        """Returns copies of the masks, for operators to change."""
        return [copy.deepcopy(mask) for mask in self.masks]


@dataclass
class Inventing:
    """Workers that return invented evaluations at once; their own seconds do not count.

    Attributes:
        seconds: The time that inventing took.
    """

    rng: np.random.Generator
    fraction: float
    seconds: float = 0.0
    replies: list[tuple[int, Outcome]] = field(default_factory=list)
    submitted: int = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Invents the evaluations of a chunk."""
        start = time.perf_counter()
        _, _, packed, *_ = arguments
        self.submitted += 1
        self.replies.append((self.submitted, Returned([asdict(self._invent(bits)) for bits, _ in packed])))
        self.seconds += time.perf_counter() - start
        return self.submitted

    def wait(self) -> tuple[int, Outcome]:
        """Returns the first reply."""
        return self.replies.pop(0)

    def count(self) -> int:
        """Returns 1."""
        return 1

    def close(self) -> None:
        """Does nothing."""

    def expect(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Sets the shapes of the masks."""
        self.shapes, self.n = shapes, sum(map(math.prod, shapes.values()))

    def _invent(self, packed: bytes) -> Evaluation:
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=self.n).view(np.bool_)
        mask = ep.Mask(bits, self.shapes)
        terms = dict.fromkeys(BUILT_IN_TERMS, float(self.rng.normal()))
        evidence = invent_evidence(mask, self.fraction, self.rng)
        return Evaluation(mask.hash, 0, terms, 1.0, 0.5, OK, "", 1.0, "invented", 0.0, evidence)


def invent_evidence(mask: ep.Mask, fraction: float, rng: np.random.Generator) -> Evidence:
    """Returns evidence of the size that an evaluation's has."""
    survivors = np.flatnonzero(mask.bits).astype(np.int32)
    still = rng.permutation(survivors)[: max(1, round(fraction * len(survivors)))]
    drawn = np.unique(rng.integers(len(mask), size=3 * len(still), dtype=np.int32))
    return Evidence(mask.hash, still, rng.permutation(drawn[~mask.bits[drawn]])[: 2 * len(still)])


def make_problem(weights: int, options: GrowthOptions) -> ep.Problem:
    """Returns a problem with about so many prunable weights, and invented data."""
    around = INPUTS + CLASSES
    width = max(1, round((math.sqrt(around**2 + 4 * weights) - around) / 2))
    draws = torch.Generator().manual_seed(0)
    few = max(CLASSES, options.examples // 10)
    train, validation, test = (
        (torch.randn(n, INPUTS, generator=draws), torch.arange(n) % CLASSES) for n in (options.examples, few, few)
    )
    recipe = ep.Recipe(epochs=1, batch_size=options.batch_size)
    return ep.Problem("mlp", ep.Data(train, validation, test), recipe, widths=(width, width))


def evolve_options(k: int, options: GrowthOptions) -> EvolveOptions:
    """Returns the options of the evolution."""
    evolution = ep.Evolution(k=k, offspring=k, generations=1000)
    return make(EvolveOptions, {"evolution": evolution, "sparsity": options.sparsity, "controls": False})


def open_session(problem: ep.Problem, k: int, options: GrowthOptions, folder: Path) -> Session:
    """Returns the session of an evolution with a run folder, not entered yet, whose workers invent the evaluations."""
    chosen, execution = evolve_options(k, options), Execution(out=folder)
    evaluator = prepare_evaluator(Evolve, problem, 0, chosen, execution)
    workers = Inventing(np.random.default_rng(1), evaluator.brief.evidence)
    workers.expect(dict(problem.shapes))
    settings = settings_of(Evolve, problem, chosen)
    journal = open_journal(execution, "evolve", {**settings, "problem": problem.config()}, execution.recorded("invented"))
    return Session(problem, journal.of(problem), 0, execution, Evaluating(evaluator, workers))


def pass_generation(search: Evolve) -> dict[str, float]:
    """Makes a generation; returns the seconds of its steps, without those of inventing evaluations."""
    session = search.session
    workers = session.evaluating.workers if session.evaluating else None
    assert isinstance(workers, Inventing)
    invented, times = workers.seconds, [time.perf_counter()]
    masks = search.ask()
    times.append(time.perf_counter())
    session.evaluate(masks, search.gen)
    times.append(time.perf_counter())
    search.tell(masks)
    times.append(time.perf_counter())
    asking, evaluating, telling = np.diff(times)
    evaluating -= workers.seconds - invented
    parts = {"breeding": asking, "recording": evaluating, "survival and checkpoint": telling}
    return {GENERATION: asking + evaluating + telling, **{f"{GENERATION}, {name}": value for name, value in parts.items()}}


def evaluate(point: Point, count: int) -> None:
    """Trains masks briefly, as one chunk."""
    for evaluation in evaluate_chunk(point.session.evaluator.job, point.masks[:count]):
        if evaluation.has_failed:
            raise ep.RunError(f"the evaluation failed: {evaluation.note}")


def random_masks(point: Point, sparsity: float) -> Callable[[], object]:
    """Draws the first generation."""
    shapes = point.session.problem.shapes
    return lambda: [ep.random_mask(shapes, sparsity, point.rng, "varied") for _ in point.masks]


def mutate(point: Point, operator: Callable[..., Any], **options: Any) -> Callable[[], object]:
    """Mutates each mask."""
    clones = point.clones()
    return lambda: [operator(mask, rng=point.rng, **options) for mask in clones]


def mate(point: Point, operator: Callable[..., Any]) -> Callable[[], object]:
    """Mates each mask with another, which makes twice as many children as a generation has at most."""
    clones = point.clones()
    return lambda: [operator(a, b, rng=point.rng) for a, b in zip(clones[::2], clones[1::2], strict=False)]


def survive(point: Point) -> Callable[[], object]:
    """Lets the masks of the first generation compete with the population, and enters them in the hall of fame."""
    search, state, children = point.search, copy.deepcopy(point.search.state), point.search.starts.masks

    def compete() -> None:
        state.population = replace(state, children, search.operators, search.evolution)
        improve(state, children, 1)

    return compete


def log(point: Point) -> Callable[[], object]:
    """Logs the population as a generation."""
    known, best = point.session.evaluator.known, point.search.state.bests[-1][1]
    return lambda: log_generation(tools.Logbook(), 0, point.masks, best, known, set())


def on_masks(function: Callable[[list[ep.Mask]], object], point: Point) -> Callable[[], object]:
    """Calls a function of the masks."""
    return lambda: function(point.masks)


def parts_of(options: GrowthOptions) -> dict[str, Part]:
    """Returns what is measured beside the generation and the evaluation."""
    sparsity, density = options.sparsity, 1 - options.sparsity
    own: dict[str, dict[str, Any]] = {
        "sparsity": {"low": 1 - 1.5 * density, "high": 1 - 0.5 * density},
        "informed": {"among": 1.5},
    }
    fewer = {"survivors": lambda point: max(1, point.masks[0].survivors // 2)}
    parts: dict[str, Part] = {"random masks": partial(random_masks, sparsity=sparsity)}
    for name, operator in MUTATIONS.items():
        parts[f"mutation {name}"] = partial(mutate, operator=operator, fraction=0.2, **own.get(name, {}))
    parts["mutation informed, grow random"] = partial(
        mutate, operator=MUTATIONS["informed"], fraction=0.2, grow="random", among=1.5
    )  # fmt: skip
    parts["shrink"] = lambda point: mutate(point, shrink, survivors=fewer["survivors"](point))
    for name, crossover in CROSSOVERS.items():
        parts[f"crossover {name}"] = partial(mate, operator=crossover)
    return parts | {
        "clones": partial(on_masks, lambda masks: [copy.deepcopy(mask) for mask in masks]),
        "hashes": partial(on_masks, lambda masks: [mask.hash for mask in masks]),
        "pickles": partial(on_masks, lambda masks: [pickle.loads(pickle.dumps(mask)) for mask in masks]),  # noqa: S301
        "layer counts": partial(on_masks, layer_counts),
        "diversity": partial(on_masks, diversity),
        "diversity, first masks": lambda point: lambda: diversity(point.search.starts.masks),
        "chance diversity": partial(on_masks, chance_diversity),
        "survival": survive,
        "log": log,
        "copy of the state": lambda point: lambda: copy.deepcopy(point.search.state),
        "checkpoint, packed": lambda point: lambda: pack(point.search.state),
        "checkpoint": lambda point: lambda: save_state(point.session.journal, point.search.state),
    }


def measure_generations(search: Evolve, repeats: int) -> list[dict[str, Any]]:
    """Measures generations after the first, which has no parents; returns rows without ``share``."""
    pass_generation(search)
    before = reset_peak_memory()
    times = [pass_generation(search) for _ in range(repeats)]
    added = peak_memory() - before
    rows = [{"part": part, "seconds": statistics.median(each[part] for each in times)} for part in times[0]]
    return [{**row, "added_mb": added if row["part"] == GENERATION else math.nan} for row in rows]


def measure(part: str, prepare: Part, point: Point, repeats: int) -> dict[str, Any]:
    """Measures a part; returns a row without ``share``."""
    times, before = [], math.nan
    for i in range(repeats):
        function = prepare(point)
        if i == repeats - 1:  # memory that is new to the process takes longer
            before = reset_peak_memory()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return {"part": part, "seconds": statistics.median(times), "added_mb": peak_memory() - before}


def measure_point(problem: ep.Problem, k: int, options: GrowthOptions, bar: Any) -> list[dict[str, Any]]:
    """Returns the rows of one number of weights and one K, the evaluation first."""
    parts = parts_of(options)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(problem, k, options, Path(folder) / "run")
        with session.journal:
            search = Evolve(session, evolve_options(k, options))
            rows = measure_generations(search, options.repeats)
            point = Point(search, search.state.population, np.random.default_rng(2))
            count = min(options.evaluated, k)
            rows.insert(0, measure(EVALUATION, lambda point: lambda: evaluate(point, count), point, 1))
            rows[0]["seconds"] *= k / count
            bar.update()
            for name, prepare in parts.items():
                rows.append(measure(name, prepare, point, options.repeats))
                bar.update()
    whole = rows[0]["seconds"]
    fixed = {"weights": problem.prunable_count, "k": k}
    return [{**row, **fixed, "share": row["seconds"] / whole} for row in rows]


def reset_peak_memory() -> float:
    """Lets Linux count the peak of the resident memory anew, and returns the present one in MB."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # freed memory that is used again would not count
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")
    return peak_memory()


def peak_memory() -> float:
    """Returns the peak of the resident memory in MB since it was reset; NaN if the system does not tell."""
    path = Path("/proc/self/status")
    if not path.exists():
        return math.nan
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def table_of(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of the table: a row a part, at the largest K and the most weights, and its ratios to smaller ones."""
    at = {(row["part"], row["weights"], row["k"]): row for row in rows}
    weights, ks = (sorted({row[name] for row in rows}) for name in ("weights", "k"))
    few, many, small, large = weights[0], weights[-1], ks[0], ks[-1]
    titles = ("seconds", "share", "added MB", f"K x {large / small:g}", f"weights x {many / few:.3g}")
    yield f"{many:,} weights, K = {large}".ljust(36) + "".join(f"{title:>16}" for title in titles)
    for part in dict.fromkeys(row["part"] for row in rows):
        row = at[part, many, large]
        numbers = (
            f"{row['seconds']:.3f}",
            f"{row['share']:.2%}",
            f"{row['added_mb']:.0f}",
            f"{row['seconds'] / at[part, many, small]['seconds']:.1f}",
            f"{row['seconds'] / at[part, few, large]['seconds']:.1f}",
        )
        yield part.ljust(36) + "".join(f"{number:>16}" for number in numbers)


def main(options: GrowthOptions) -> None:
    """Runs the benchmark, and prints and saves its table."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    points = len(options.weights) * len(options.ks) * (1 + len(parts_of(options)))
    with tqdm(total=points, unit="part", disable=not sys.stderr.isatty()) as bar:
        for weights in options.weights:
            problem = make_problem(weights, options)
            for k in options.ks:
                rows += measure_point(problem, k, options, bar)
                records.write_table(options.out / "growth.csv", COLUMNS, rows)
    print("\n".join(table_of(rows)))
    print(f"written to {options.out}: growth.csv")


if __name__ == "__main__":
    guard(lambda: main(parse(GrowthOptions, __doc__)))
