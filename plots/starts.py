"""Fitness of the k starts against their validation accuracy, with Spearman's rho. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("starts", __doc__)
