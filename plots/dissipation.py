"""Density by epoch and layer, and movement with the cut, where weights dissipated. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("dissipation", __doc__)
