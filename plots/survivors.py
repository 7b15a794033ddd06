"""Density of each layer over the generations. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("survivors", __doc__)
