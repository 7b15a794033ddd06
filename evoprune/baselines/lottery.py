"""Lottery tickets: masks by the magnitude of trained weights."""

from __future__ import annotations

from collections.abc import Callable

from evoprune import seeds
from evoprune.baselines.random_masks import dense
from evoprune.baselines.scores import check_positive, falling_counts, flatten, keep_best, says_collapse, seed_of
from evoprune.engines import check as engines
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.training.loop import train
from evoprune.training.threads import torch_threads

# Rounds of the iterative lottery ticket.
ROUNDS = 5


@says_collapse
def lottery_ticket(
    problem: Problem,
    *,
    sparsity: float,
    rounds: int = 1,
    engine: str = "module",
    threads: int = 1,
    seed: int | None = None,
    on_epoch: Callable[[], object] | None = None,
) -> Mask:
    """Lottery ticket: trains, keeps the largest trained weights, and rewinds to W0.

    Source: Frankle and Carbin 2019, arXiv:1803.03635, section 1. Magnitudes are compared over all layers, as the paper does
    for deep networks (section 4); for LeNet-300-100 it compares within each layer, and prunes the output layer at half the
    rate (section 2).

    Args:
        problem: The problem; each round trains all epochs of its recipe from W0.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        rounds: Trainings: 1 prunes once ("one-shot"), more prune the density by the same factor after each.
        engine: Name of the engine, see :data:`evoprune.engines.registry.ENGINES`.
        threads: Threads that torch uses.
        seed: Its stream ``order`` gives batches and noise, the same in every round; None takes the problem's.
        on_epoch: Called after each epoch.

    Raises:
        InputError: A value out of range, or an unknown engine.
        RunError: Weights are not finite after training.
    """
    counts = falling_counts(problem, sparsity, rounds, "rounds")
    check_positive("threads", threads)
    build = engines.require(engine, problem).build
    order = seeds.integer(seed_of(problem, seed), "order")

    def after_epoch(*_: object) -> None:
        if on_epoch is not None:
            on_epoch()

    mask = dense(problem)
    for count in counts:
        with torch_threads(threads):
            population = build(problem, [mask])
            train(population, problem, problem.recipe.epochs, order, after_epoch)
        state = population.state(0)
        trained = flatten([state[name].abs() for name in problem.shapes])
        mask = keep_best(problem, "lottery_ticket", trained, count, mask, count == counts[-1])
    return mask
