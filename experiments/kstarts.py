"""k-starts: train k random sparse networks briefly, and the fittest fully (arXiv:2209.02201)."""

from dataclasses import dataclass
from pathlib import Path

from evoprune import Problem, Result, cli, k_starts


@dataclass(frozen=True)
class KStartsOptions(cli.Options):
    """Options of k-starts."""

    k: int = 16
    """Number of random masks."""
    restart: bool = False
    """Train the winner and the controls from the initial weights with another order of the batches, instead of going on from
    where the brief training ended."""


def search(problem: Problem, options: KStartsOptions, folder: Path) -> Result:
    """Runs k-starts with the script's options."""
    return k_starts(
        problem,
        k=options.k,
        sparsity=options.sparsity,
        fitness=options.fitness,
        layer_densities=options.layer_densities,
        fitness_epochs=options.fitness_epochs,
        restart=options.restart,
        engine=options.engine,
        workers=options.workers,
        threads=options.threads,
        chunk_size=options.chunk_size,
        out=folder,
        force=options.force,
        progress=True,
    )


if __name__ == "__main__":
    cli.main("kstarts", KStartsOptions, search, __doc__)
