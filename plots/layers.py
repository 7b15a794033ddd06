"""Survivors by layer, for the winner and the controls. Reads a run folder only."""

from evoprune import cli

if __name__ == "__main__":
    cli.plot_main("layers", __doc__)
