"""Figures and table of a comparison: reads its folder (cells.csv and the CSV files beside it) only, and writes into it."""

from evoprune.cli.plot import plot_comparison_main

if __name__ == "__main__":
    plot_comparison_main(__doc__)
