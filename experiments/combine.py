"""Combination: k-starts to a first sparsity, then dissipating gradients to the final one (arXiv:2209.02201)."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("combine")
