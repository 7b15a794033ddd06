"""Dissipating gradients: train the dense network, and remove in its first epochs the weights that barely moved."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("dissipate")
