"""Density by epoch and layer, and movement with the cut, where weights dissipated. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("dissipation", __doc__)
