"""Dissipating gradients: train the dense network, and remove in its first epochs what barely moved (arXiv:2209.02201)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import evoprune as ep
from evoprune.cli import main as cli
from evoprune.cli.options import DissipationOptions, Options, arguments


@dataclass(frozen=True)
class DissipateOptions(DissipationOptions, Options):
    """Options of dissipating gradients."""

    sparsity: float | None = None
    """Fraction of the prunable weights to remove, at least 0 and below 1. None: 0.9, or with --fraction what emerges."""
    fraction: float | None = None
    """Remove what moved by at most this fraction (of |w0|, or of the mean |w0|), in the place of a sparsity."""
    restart: bool = False
    """Train what is left from the initial weights with another order of the batches, instead of going on from where it is."""


def search(problem: ep.Problem, options: DissipateOptions, folder: Path) -> ep.Result:
    """Dissipates with the script's options."""
    return ep.dissipate(problem, **arguments(ep.dissipate, options), out=folder, progress=True)


if __name__ == "__main__":
    cli.main("dissipate", DissipateOptions, search, __doc__)
