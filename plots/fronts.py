"""Pareto fronts of the first two objectives over the generations. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("fronts", __doc__)
