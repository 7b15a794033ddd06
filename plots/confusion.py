"""Confusion of the classes on the test set. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("confusion", __doc__)
