"""The masks that the winner of an evolution comes from. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("lineage", __doc__)
