"""Combination: k-starts to a first sparsity, then dissipating gradients to the final one (arXiv:2209.02201)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import evoprune as ep
from evoprune.cli import main as cli
from evoprune.cli.options import DissipationOptions, StartOptions, arguments


@dataclass(frozen=True)
class CombineOptions(DissipationOptions, StartOptions):
    """Options of the combination."""

    k: int = 2
    """Number of random masks. More of them cost more than they were seen to gain; see RESULTS.md."""
    fitness_epochs: int = 1
    """Epochs of the brief training: the first of --epochs. 0 judges untrained networks, by loss, accuracy or magnitude."""
    first_sparsity: float = 0.5
    """Sparsity of the random masks."""
    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""
    select: str = "start"
    """When to choose: start (before anything dissipates) or end (among the masks that dissipated during the brief training)."""


def search(problem: ep.Problem, options: CombineOptions, folder: Path) -> ep.Result:
    """Runs the combination with the script's options."""
    return ep.combine(problem, **arguments(ep.combine, options), out=folder, progress=True)


if __name__ == "__main__":
    cli.main("combine", CombineOptions, search, __doc__)
