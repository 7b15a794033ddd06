"""k-starts: train k random sparse networks briefly, and the fittest fully (arXiv:2209.02201)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import evoprune as ep
from evoprune.cli import main as cli
from evoprune.cli.options import StartOptions, arguments


@dataclass(frozen=True)
class KStartsOptions(StartOptions):
    """Options of k-starts."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""


def search(problem: ep.Problem, options: KStartsOptions, folder: Path) -> ep.Result:
    """Runs k-starts with the script's options."""
    return ep.k_starts(problem, **arguments(ep.k_starts, options), out=folder, progress=True)


if __name__ == "__main__":
    cli.main("kstarts", KStartsOptions, search, __doc__)
