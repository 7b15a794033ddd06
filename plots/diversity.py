"""Diversity of the population, and the evaluations, over the generations. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("diversity", __doc__)
