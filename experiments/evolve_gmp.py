"""Evolution over gradual magnitude pruning: weight decay, length and layer factors of the pruning as genes."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("evolve-gmp")
