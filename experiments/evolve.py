"""Evolution: sparse masks over generations, by mutation, crossover and selection; the fittest is trained fully."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("evolve")
