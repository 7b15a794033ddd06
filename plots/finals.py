"""Validation accuracy after full training against fitness, of the best masks of the generations. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("finals", __doc__)
