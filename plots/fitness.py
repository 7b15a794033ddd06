"""Fitness of the population, and the best so far, over the generations. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("fitness", __doc__)
