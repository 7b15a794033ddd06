"""The estimate of ``--dry-run``: evaluations, cost, memory, disk and time, before any is spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evoprune.baselines.random_masks import dense
from evoprune.cli.output import FOR_A_PERSON, Output
from evoprune.engines import auto
from evoprune.problem.problem import Problem
from evoprune.search.course import chunk_size_of
from evoprune.search.method import Method, make_options, require
from evoprune.training.cost import multiply_adds

# Memory of a weight while it is trained: value, gradient, and one number of the optimiser.
_COPIES = 3


def print_estimate(problem: Problem, method: Method, given: Mapping[str, Any], output: Output = FOR_A_PERSON) -> None:
    """Prints a rough estimate of a search's evaluations, cost, memory, disk and time.

    Args:
        problem: The problem.
        method: The method.
        given: Its options, and the execution, as flat keywords.
        output: The place where it is printed.

    Raises:
        InputError: A value out of range.
    """
    options, execution = make_options(method, given)
    require(method, problem, options)
    found = estimate(problem, method, options, execution.engine)
    output.result(found, "\n".join(f"{name:22} {value}" for name, value in found.items()))
    output.more("\nAn estimate from the cost table of one machine, for one worker; nothing was started.")


def estimate(problem: Problem, method: Method, options: Any, engine: str) -> dict[str, str]:
    """Returns a rough estimate of a search's evaluations, cost, memory, disk and time, in words.

    Args:
        problem: The problem.
        method: The method.
        options: Its options.
        engine: Name of the engine, or ``auto``.
    """
    epochs, n = problem.recipe.epochs, len(problem.part("train")[0])
    evaluations = method.evaluations(problem, options) if hasattr(method, "evaluations") else 0
    cost = method.cost(problem, options)(epochs) if hasattr(method, "cost") else float(epochs)
    sparsity = getattr(options, "sparsity", None) or 0.0
    together = chunk_size_of(options) if hasattr(options, "chunk_size") else 1
    chosen = auto.resolve(engine, problem, sparsity, together)
    seconds = auto.seconds(problem, chosen, sparsity, together)
    steps = cost / max(1 - sparsity, 1e-9) * -(-n // problem.recipe.batch_size)
    weights, width = problem.prunable_count, problem.w0.itemsize
    kept = weights if chosen != "sparse" else (1 - sparsity) * weights
    snapshots = _snapshots(problem, method, options)
    data = sum(values.numel() * values.element_size() for pair in problem.data.parts().values() for values in pair)
    return {
        "engine": f"{chosen}, {together} masks at a time",
        "evaluations": f"{evaluations:,}",
        "dense epochs": f"{cost:.3g} (search and final training, on surviving weights)",
        "multiply-adds": f"{cost * multiply_adds(problem, dense(problem)):.3g}",
        "memory": _size(data + _COPIES * width * kept * together),
        "disk": _size(width * problem.parameter_count * 3 + evaluations * 400 + weights / 8 + snapshots),
        "time": "not known: this device was never measured" if seconds is None else _time(seconds * steps / together),
    }


def _snapshots(problem: Problem, method: Method, options: Any) -> float:
    """Returns the bytes of the snapshots of three generations, which are kept at a time; 0 if no weights are inherited."""
    if not hasattr(method, "evaluator") or not method.evaluator(problem, options).get("inherit"):
        return 0.0
    others = problem.parameter_count - problem.prunable_count
    densest = 1 - options.evolution.begin(options.sparsity)
    each: float = 2 * problem.w0.itemsize * (densest * problem.prunable_count + others) + problem.prunable_count / 8
    return 3 * each * int(options.evolution.children)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _time(seconds: float) -> str:
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < length:
            return f"about {seconds:.2g} {unit}"
        seconds /= length
    return f"about {seconds:.3g} days"
