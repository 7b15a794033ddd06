"""``python -m evoprune`` is the command ``evoprune``."""

from evoprune.cli.main import run

if __name__ == "__main__":
    run()
