"""Fitness of the k starts against their validation accuracy, with Spearman's rho. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("starts", __doc__)
