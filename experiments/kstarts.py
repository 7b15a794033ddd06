"""k-starts: train k random sparse networks briefly, and the fittest fully (arXiv:2209.02201)."""

from dataclasses import dataclass
from pathlib import Path

from evoprune import Problem, Result, cli, k_starts


@dataclass(frozen=True)
class KStartsOptions(cli.StartOptions):
    """Options of k-starts."""

    sparsity: float = 0.9
    """Fraction of the prunable weights to remove, at least 0 and below 1."""


def search(problem: Problem, options: KStartsOptions, folder: Path) -> Result:
    """Runs k-starts with the script's options."""
    return k_starts(problem, **cli.arguments(k_starts, options), out=folder, progress=True)


if __name__ == "__main__":
    cli.main("kstarts", KStartsOptions, search, __doc__)
