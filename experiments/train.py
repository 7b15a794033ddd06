"""Train a mask that was found elsewhere, fully from the initial weights, with records and all."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("train")
