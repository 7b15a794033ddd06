"""The registry of baselines: published masks at initialization, with the cost of finding them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from evoprune.baselines.lottery import ROUNDS, lottery_ticket
from evoprune.baselines.random_masks import dense, erk, random
from evoprune.baselines.saliency import (
    SNIP_ITERATIONS,
    SYNFLOW_ITERATIONS,
    default_examples,
    force,
    grasp,
    iterative_snip,
    magnitude,
    snip,
    synflow,
)
from evoprune.baselines.scores import seed_of, warn_of_collapse
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.registry import Registry, describe


@dataclass(frozen=True)
class Baseline:
    """A baseline's entry in the registry.

    Attributes:
        prune: Called as ``prune(problem, sparsity=..., seed=...)``; returns a :class:`Mask`. Baselines that draw nothing
            ignore the seed, and ``dense`` ignores the sparsity.
        search_epochs: Function of the problem and the epochs of its recipe: the epochs that it takes to find the mask with the
            default options. One epoch is a forward and backward pass for each training example.
        density: Function of the sparsity: the mean density of the network in those epochs.
        summary: The baseline in a line, for help.
    """

    prune: Callable[..., Mask]
    search_epochs: Callable[[Problem, int], float] = lambda problem, epochs: 0.0
    density: Callable[[float], float] = lambda sparsity: 1.0
    summary: str = ""

    def search_cost(self, problem: Problem, sparsity: float, epochs: int) -> float:
        """Returns the multiply-adds that it takes to find the mask, in epochs of dense training."""
        return self.search_epochs(problem, epochs) * self.density(sparsity)


def _first_line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


def _train_size(problem: Problem) -> int:
    return len(problem.data.train[0])


def _again(problem: Problem) -> float:
    return SNIP_ITERATIONS * default_examples(problem) / _train_size(problem)


def _as_baseline(given: Baseline | Callable[..., Mask]) -> Baseline:
    """Makes an entry of a user's function; its search counts as free unless a :class:`Baseline` with a cost is given."""
    if isinstance(given, Baseline):
        return given
    if not callable(given):
        raise InputError(f"the baseline is {given!r}; expected a name, or a function (problem, *, sparsity, seed) -> ep.Mask.")
    return Baseline(functools.partial(_prune, given), summary=_first_line(given))


def _prune(function: Callable[..., Mask], problem: Problem, *, sparsity: float, seed: int | None = None) -> Mask:
    mask = function(problem, sparsity=sparsity, seed=seed_of(problem, seed))
    if not isinstance(mask, Mask):
        raise InputError(f"the baseline {describe(function)} returned {type(mask).__name__}; expected an ep.Mask.")
    mask.require(problem.shapes)
    warn_of_collapse(problem, mask, describe(function))
    return mask


BASELINES: Registry[Baseline] = Registry("baseline", {
    "random": Baseline(random, summary="Random: the same density in every layer."),
    "erk": Baseline(erk, summary="ERK: random, with the layer densities of Evci et al. 2020, arXiv:1911.11134, section 3."),
    "magnitude": Baseline(
        lambda problem, *, sparsity, seed=None: magnitude(problem, sparsity=sparsity), summary=_first_line(magnitude)
    ),
    "snip": Baseline(snip, lambda problem, epochs: default_examples(problem) / _train_size(problem), summary=_first_line(snip)),
    "iterative-snip": Baseline(iterative_snip, lambda problem, epochs: _again(problem), summary=_first_line(iterative_snip)),
    "force": Baseline(force, lambda problem, epochs: _again(problem), summary=_first_line(force)),
    # the gradient is one pass, the Hessian's product with it another: backward through forward and backward
    "grasp": Baseline(
        grasp, lambda problem, epochs: 2 * default_examples(problem) / _train_size(problem), summary=_first_line(grasp)
    ),
    "synflow": Baseline(
        lambda problem, *, sparsity, seed=None: synflow(problem, sparsity=sparsity),
        lambda problem, epochs: SYNFLOW_ITERATIONS / _train_size(problem),
        summary=_first_line(synflow),
    ),
    "lottery-ticket": Baseline(lottery_ticket, lambda problem, epochs: float(epochs), summary=_first_line(lottery_ticket)),
    "lottery-ticket-5": Baseline(
        functools.partial(lottery_ticket, rounds=ROUNDS),
        lambda problem, epochs: float(ROUNDS * epochs),
        lambda sparsity: sum((1 - sparsity) ** (i / ROUNDS) for i in range(ROUNDS)) / ROUNDS,
        f"Lottery ticket in {ROUNDS} rounds, each of which removes the same fraction of the survivors.",
    ),
    "dense": Baseline(lambda problem, *, sparsity=0.0, seed=None: dense(problem), summary="Dense: no weight is removed."),
}, _as_baseline)  # fmt: skip
