"""A generation: evaluated, described, and recorded."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from deap import base, tools
from tqdm import tqdm

from evoprune.errors import RunError
from evoprune.evaluation.evaluation import MACHINE_FAILURE, Evaluation
from evoprune.evaluation.evaluator import Evaluator
from evoprune.masks.mask import Mask
from evoprune.masks.overlap import chance_diversity, diversity, layer_counts
from evoprune.runs.run import Run
from evoprune.search.statistics import make_statistics, with_statistics
from evoprune.workers.policy import evaluate

STATISTICS = ("min", "mean", "max", "std")
COLUMNS = ("gen", "nevals", "best", *STATISTICS, "diversity", "chance_diversity", "seconds")
LAYER_COLUMNS = ("gen", "layer", "size", "min", "mean", "max", "best")
_LAYERS = "layers"
# More workers are not listed one by one beside the progress bar.
NAMED_WORKERS = 4


def evaluate_generation(
    toolbox: base.Toolbox, masks: Sequence[Mask], gen: int, run: Run | None, progress: bool
) -> list[Evaluation]:
    """Evaluates masks, gives each its fitness and evidence, and records every evaluation as soon as it is finished.

    Args:
        toolbox: The toolbox; its evaluator knows the earlier generations.
        masks: The masks, each distinct one evaluated once.
        gen: The generation.
        run: The run; what it has of this generation is not evaluated again. None records nothing.
        progress: Show a progress bar.

    Returns:
        One evaluation a mask.
    """
    evaluator: Evaluator = toolbox.evaluate.func
    recorded = {} if run is None else run.recorded(gen)
    done_by: Counter[str] = Counter()
    with tqdm(total=len(masks), desc=f"generation {gen}", unit="mask", disable=not progress, leave=gen == 0) as bar:
        bar.update(sum(mask.hash in recorded or mask.hash in evaluator.known for mask in masks))

        def on_result(evaluations: list[Evaluation]) -> None:
            if run is not None:
                run.record(gen, evaluations)
            done_by.update(evaluation.worker for evaluation in evaluations)
            bar.set_postfix_str(describe_shares(done_by), refresh=False)
            bar.update(min(len(evaluations), bar.total - bar.n))

        evaluations = evaluator.evaluate(masks, functools.partial(evaluate, toolbox.map.func.workers), on_result, recorded)
    if progress and recorded:
        tqdm.write(f"generation {gen}: {len(recorded)} evaluations were on disk already")
    if run is not None:
        run.calibrated(evaluator.divisors)
    for mask, evaluation in zip(masks, evaluations, strict=True):
        mask.fitness.values = evaluator.values(evaluation)
        mask.evidence = evaluation.evidence
    return evaluations


def describe_shares(done_by: Mapping[str, int]) -> str:
    """Returns in words how many masks each worker has evaluated; empty for one worker."""
    if len(done_by) < 2:
        return ""
    if len(done_by) <= NAMED_WORKERS:
        return ", ".join(f"{worker} {count}" for worker, count in sorted(done_by.items()))
    return f"{len(done_by)} workers, {min(done_by.values())} to {max(done_by.values())} each"


def require_a_survivor(evaluations: Sequence[Evaluation], run: Run | None) -> None:
    """Ends a search in which nothing can be chosen.

    Raises:
        RunError: Every evaluation failed.
    """
    if all(evaluation.has_failed for evaluation in evaluations):
        where = "" if run is None else f" The evaluations are recorded in {run.folder / 'evaluations.csv'}."
        cure = "If training diverged, lower the learning rate."
        if all(evaluation.status == MACHINE_FAILURE for evaluation in evaluations):
            cure = "That is the machine's failure, not the masks': retry_failed=True (--retry-failed) evaluates them again."
        raise RunError(f"all {len(evaluations)} evaluations failed; the first: {evaluations[0].note}. {cure}{where}")


def log_generation(
    logbook: tools.Logbook, gen: int, population: Sequence[Mask], best: Mask, known: Mapping[str, Evaluation], new: set[str]
) -> None:
    """Adds a generation to DEAP's logbook: statistics of the fitness, a chapter with those of each term, diversity.

    Statistics are over the finite values. With several objectives, ``best``, ``min``, ``mean``, ``max`` and ``std`` are of the
    first one.

    Args:
        logbook: The logbook, which gains a record.
        gen: The generation.
        population: Its masks: those that survive into the next one.
        best: The fittest mask so far.
        known: Evaluations by mask hash.
        new: Hashes of the masks that were evaluated in this generation.
    """
    names = tuple(known[best.hash].values)
    terms = with_statistics(tools.MultiStatistics({n: tools.Statistics(lambda e, n=n: e.values[n]) for n in names}))
    counts = layer_counts(population)
    by_layer = zip(counts.min(0), counts.mean(0), counts.max(0), layer_counts([best])[0], strict=True)
    logbook.header = ["gen", "nevals", "best", *STATISTICS, "diversity", "seconds"]
    layers = {name: [float(n) for n in numbers] for name, numbers in zip(population[0].shapes, by_layer, strict=True)}
    chapters = terms.compile([known[mask.hash] for mask in population]) | {_LAYERS: layers}
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


def write_generations(run: Run | None, logbook: tools.Logbook, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes ``generations.csv`` and ``layers.csv``."""
    if run is None:
        return
    names = [name for name in logbook.chapters if name != _LAYERS]
    columns = [*COLUMNS, *(f"{name}_{statistic}" for name in names for statistic in STATISTICS)]
    rows, layers = [], []
    for i, record in enumerate(logbook):
        chapters = {f"{name}_{s}": logbook.chapters[name][i][s] for name in names for s in STATISTICS}
        rows.append({**record, **chapters})
        for name, shape in shapes.items():
            values = dict(zip(("min", "mean", "max", "best"), logbook.chapters[_LAYERS][i][name], strict=True))
            layers.append({"gen": record["gen"], "layer": name, "size": math.prod(shape), **values})
    run.write_table("generations.csv", columns, rows)
    run.write_table("layers.csv", LAYER_COLUMNS, layers)
