"""Survivors of the first layer that read each pixel of an image. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("inputs", __doc__)
