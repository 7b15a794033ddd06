"""From scores of weights to a mask."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec

import numpy as np
import torch
from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import CollapseWarning, EvopruneError, InputError, RunError
from evoprune.evaluation.brief import UNKNOWN_COLLAPSE, collapse_note
from evoprune.masks.bits import Bits
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.problem import Problem
from evoprune.seeds import noise
from evoprune.training.threads import torch_threads

P = ParamSpec("P")


def says_collapse(prune: Callable[P, Mask]) -> Callable[P, Mask]:
    """Decorates a baseline to warn if its mask cuts off layers or outputs."""

    @functools.wraps(prune)
    def call(*arguments: P.args, **options: P.kwargs) -> Mask:
        mask = prune(*arguments, **options)
        problem = options.get("problem", arguments[0] if arguments else None)
        assert isinstance(problem, Problem)
        warn_of_collapse(problem, mask, prune.__name__)
        return mask

    return call


def warn_of_collapse(problem: Problem, mask: Mask, name: str) -> None:
    """Warns if a baseline's mask cuts off layers or outputs."""
    cut_off = collapse_note(problem, mask)
    if cut_off and not cut_off.startswith(UNKNOWN_COLLAPSE):
        text = f"the mask of {name} cuts off: {cut_off}; lower the sparsity, or take another baseline."
        warnings.warn(text, CollapseWarning, stacklevel=3)


def top_scores(scores: Tensor, count: int) -> Bits:
    """Returns the positions of the ``count`` largest scores.

    Equal scores are taken in the order of their indices, so the result depends on the scores alone.

    Args:
        scores: Scores [n].
        count: How many to take, from 0 to n.

    Returns:
        An array [n] of booleans.

    Raises:
        InputError: A count out of range.
        RunError: Scores are not finite.
    """
    values = scores.detach().cpu().numpy()
    if values.ndim != 1 or not 0 <= count <= len(values):
        raise InputError(f"{count} of scores {values.shape}; expected from 0 to n of scores (n,).")
    wrong = len(values) - int(np.isfinite(values).sum())
    if wrong:
        raise RunError(
            f"{wrong} of {len(values)} scores are NaN or infinite, so the weights cannot be ranked; expected finite ones: "
            f"check that inputs and W0 are finite and of moderate scale, and, for a lottery ticket, lower the recipe's lr."
        )
    if count == 0:
        return np.zeros(len(values), bool)
    last = np.partition(values, len(values) - count)[len(values) - count]
    kept: Bits = values > last
    kept[np.flatnonzero(values == last)[: count - np.count_nonzero(kept)]] = True
    return kept


def seed_of(problem: Problem, seed: int | None) -> int:
    """Returns a seed, or the problem's if it is None."""
    return problem.seed if seed is None else seeds.check_seed(seed)


def check_positive(name: str, value: object) -> None:
    """Refuses a value that is not a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a positive integer.")


def falling_counts(problem: Problem, sparsity: float, steps: int, name: str) -> list[int]:
    """Returns the number of survivors after each step; the density falls by the same factor each time."""
    check_positive(name, steps)
    n = problem.prunable_count
    final = survivors_of(sparsity, n)
    return [round((1 - sparsity) ** (step / steps) * n) for step in range(1, steps)] + [final]


def prunable_weights(problem: Problem, network: nn.Module) -> list[nn.Parameter]:
    """Returns the network's prunable weights; frozen ones take gradients from now on, since they are scored, too."""
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for name in problem.shapes]
    for weight in weights:
        weight.requires_grad_()
    return weights


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Returns tensors as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def keep_best(problem: Problem, name: str, scores: Tensor, count: int, mask: Mask | None = None, last: bool = True) -> Mask:
    """Returns the mask of the best scores.

    Args:
        problem: The problem.
        name: Name of the baseline.
        scores: Scores of all prunable weights.
        count: How many to keep.
        mask: The weights that are still there; None for all.
        last: Whether it is the last selection; then kept scores of zero cause a warning.

    Raises:
        RunError: The scores are not finite, all zero, or, while all weights are there, all equal.
    """
    there = np.ones(len(scores), bool) if mask is None else mask.bits
    values = scores.detach().cpu()[torch.from_numpy(there)]
    best = top_scores(values, count)
    # after several selections the last few weights may have equal scores above zero: those of a single path
    if count < len(values) and values.min() == values.max() and (there.all() or not values.any()):
        raise RunError(
            f"all {len(values):,} scores of {name} are {values.max() + 0.0:g}; they rank nothing{_blocked(problem, there)}. "
            f"Expected initial weights, examples and activations that let signals and gradients through."
        )
    found = Mask(there, problem.shapes)
    found.bits[there] = best
    zero = Mask(there, problem.shapes)
    zero.bits[there] = best & (values == 0).numpy()
    if last and count < len(values) and zero.survivors:
        layers = ", ".join(f"{layer.sum():,} in {layer_name}" for layer_name, layer in zero.layers.items() if layer.any())
        warnings.warn(
            f"{name}: of the {count:,} weights that it keeps {zero.survivors:,} have a score of zero ({layers}), which ranks "
            f"nothing: the first by index are kept. Take a higher sparsity, or another baseline.",
            stacklevel=4,
        )
    return found


def _blocked(problem: Problem, there: Bits) -> str:
    """Says which layers let no signal through, and the cure."""
    mask = Mask(there, problem.shapes)
    emptied = [name for name, layer in mask.layers.items() if not layer.any()]
    if emptied:
        return f": nothing is left of {', '.join(emptied)}; lower the sparsity"
    zero = [name for name, weight in problem.network().named_parameters() if weight.ndim > 1 and not weight.any()]
    return f": the initial weights of {', '.join(zero)} are zero; initialise them" if zero else ""


@contextmanager
def scoring(problem: Problem, name: str, seed: int | None) -> Iterator[None]:
    """Computes gradients with one thread, so that their bits depend on no setting, and with noise from the seed.

    Raises:
        RunError: The network cannot be scored.
    """
    try:
        with torch_threads(1), noise(seeds.integer(seed_of(problem, seed), "masks"), 0, problem.device):
            yield
    except (EvopruneError, MemoryError):
        raise
    except Exception as error:
        raise RunError(
            f"{name} cannot score this network: {type(error).__name__}: {error}".replace("\n", " ")
            + "; expected a forward pass and derivatives that PyTorch has; take another baseline."
        ) from error
