"""The comparisons in experiments/results can be read, so everyone can draw their figures again."""

from pathlib import Path

import pytest
from support.processes import ROOT

from evoprune.comparison.course import read_settings
from evoprune.comparison.frames import read_cells
from evoprune.runs.sums import damaged

FOLDERS = sorted(path.parent for path in (ROOT / "experiments" / "results").glob("*/cells.csv"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tables_are_those_that_were_written(folder: Path) -> None:
    assert damaged(folder) == []
    assert read_settings(folder) is not None
    assert len(read_cells(folder / "cells.csv")) > 1
