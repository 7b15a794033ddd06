"""Validation accuracy after full training against fitness, of the best masks of the generations. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("finals", __doc__)
