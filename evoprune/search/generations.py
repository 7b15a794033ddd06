"""The description of a generation: DEAP's logbook, and the tables made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deap import tools

from evoprune.evaluation.evaluation import Evaluation
from evoprune.evaluation.terms import ACCURACY
from evoprune.masks.mask import Mask
from evoprune.masks.overlap import chance_diversity, diversity, layer_counts
from evoprune.runs.journal import Journal
from evoprune.search.statistics import make_statistics, with_statistics

STATISTICS = ("min", "mean", "max", "std")
COLUMNS = ("gen", "nevals", "best", *STATISTICS, "diversity", "chance_diversity", "seconds")
LAYER_COLUMNS = ("gen", "layer", "size", "min", "mean", "max", "best")
_LAYERS = "layers"


def log_generation(
    logbook: tools.Logbook, gen: int, population: Sequence[Mask], best: Mask, known: Mapping[str, Evaluation], new: set[str]
) -> None:
    """Adds a generation to DEAP's logbook: statistics of the fitness, a chapter for each term, and the diversity.

    Statistics are over the finite values. With several objectives, ``best``, ``min``, ``mean``, ``max`` and ``std`` are
    those of the first one.

    Args:
        logbook: The logbook, which gains a record.
        gen: The generation.
        population: Its masks: those that survive into the next one.
        best: The fittest mask so far.
        known: Evaluations by mask hash.
        new: Keys of the masks that were evaluated in this generation.
    """
    earlier = [name for name in logbook.chapters if name != _LAYERS]
    evaluations = [known[mask.key] for mask in population]
    names = dict.fromkeys([*(term for evaluation in evaluations for term in evaluation.terms), *earlier, ACCURACY])
    terms = with_statistics(
        tools.MultiStatistics({n: tools.Statistics(lambda e, n=n: e.values.get(n, math.nan)) for n in names})
    )
    counts = layer_counts(population)
    by_layer = zip(counts.min(0), counts.mean(0), counts.max(0), layer_counts([best])[0], strict=True)
    logbook.header = ["gen", "nevals", "best", *STATISTICS, "diversity", "seconds"]
    layers = {name: [float(n) for n in numbers] for name, numbers in zip(population[0].shapes, by_layer, strict=True)}
    chapters = terms.compile(evaluations) | {_LAYERS: layers}
    for name, values in chapters.items():  # given to record below, a chapter would take over min, mean, max and std
        logbook.chapters[name].record(gen=gen, **values)
    logbook.record(
        gen=gen,
        nevals=len(new),
        best=float(best.fitness.values[0]),
        **make_statistics().compile(population),
        diversity=diversity(population),
        chance_diversity=chance_diversity(population),
        seconds=sum(known[mask_hash].seconds for mask_hash in new),
    )


def write_generations(journal: Journal, logbook: tools.Logbook, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes ``generations.csv`` and ``layers.csv``."""
    names = [name for name in logbook.chapters if name != _LAYERS]
    columns = [*COLUMNS, *(f"{name}_{statistic}" for name in names for statistic in STATISTICS)]
    rows, layers = [], []
    for i, record in enumerate(logbook):
        chapters = {f"{name}_{s}": logbook.chapters[name][i][s] for name in names for s in STATISTICS}
        rows.append({**record, **chapters})
        for name, shape in shapes.items():
            values = dict(zip(("min", "mean", "max", "best"), logbook.chapters[_LAYERS][i][name], strict=True))
            layers.append({"gen": record["gen"], "layer": name, "size": math.prod(shape), **values})
    journal.write_table("generations.csv", columns, rows)
    journal.write_table("layers.csv", LAYER_COLUMNS, layers)
