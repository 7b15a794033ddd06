"""Figures and table of a comparison: reads its folder (cells.csv and the CSV files beside it) only, and writes into it."""

import sys

from evoprune.cli.guard import guard
from evoprune.cli.plot import plot

if __name__ == "__main__":
    guard(lambda: plot(["compare", *sys.argv[1:]], "plots"))
