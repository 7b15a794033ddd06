"""Loss and accuracy by epoch, for the winner and the controls. Reads a run folder only."""

from evoprune.cli.plot import plot_main

if __name__ == "__main__":
    plot_main("training", __doc__)
