"""Options that the methods share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchOptions:
    """Options of every method that evaluates masks."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""
    fitness: str = "combined"
    """Score of a brief training: magnitude (sum over the survivors of |w|), gradient (sum over the last epoch's steps and the
    survivors of |g|), combined (both, each divided by its mean over the initial population), loss (minus the validation loss:
    the control), accuracy (on the validation set), or a fitness that you registered."""
    fitness_epochs: int = 2
    """Epochs of the brief training: the first of --epochs. 0 judges untrained networks, by loss, accuracy or magnitude."""
    layer_densities: str = "varied"
    """How the survivors of a random mask spread over the layers: uniform (the same density everywhere, the plainest reading
    of the paper), erk (Erdős-Rényi-Kernel), or varied (ERK's densities times random factors drawn for each start)."""
    restart: bool = False
    """Train the winner and the controls from the initial weights with another order of the batches, instead of continuing their
    brief training."""
    controls: bool = True
    """Also train two controls: a random one of the masks, and the one of the least validation loss."""
    chunk_size: int | None = None
    """Masks that are trained together, if the engine can. None: a quarter of the population, at most 8."""
