"""A comparison: methods x sparsities x seeds x data; leaves cells.csv, table.md, figures, and a run folder a cell.

Running again does only the missing cells; under `python -m evoprune.scoop -n N`, or with --workers, it is spread over workers.
"""

from evoprune.cli.main import main

if __name__ == "__main__":
    main("compare")
