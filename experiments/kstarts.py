"""k-starts: train k random sparse networks briefly, and the fittest fully (arXiv:2209.02201)."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("kstarts")
