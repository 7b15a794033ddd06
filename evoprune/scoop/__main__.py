"""``python -m evoprune.scoop``."""

from evoprune.scoop.launcher import main

if __name__ == "__main__":
    main()
