"""Pareto fronts of the first two objectives over the generations. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("fronts", __doc__)
