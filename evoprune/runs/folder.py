"""The files in a run folder that belong to the run, as against those of the user."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from evoprune.runs import sums
from evoprune.runs.result import RESULT_FILES
from evoprune.system.files import open_regular

# Written into each figure, as PNG calls it, by which a run knows its own figures.
SOFTWARE = {"Software": "evoprune"}
# Of loggers: the JSON lines, the folder of TensorBoard, and the events that each was told.
LOG_FILE, BOARD, LOGGERS_FILE = "log.jsonl", "tensorboard", "loggers.json"
# Written into each page, as HTML calls it, by which evoprune knows its own pages.
GENERATOR = "evoprune"
# result.json first: it says that the run is finished
_FILES = ("result.json", *RESULT_FILES, "environment.json", sums.FILE, LOG_FILE, LOGGERS_FILE)
_FOLDERS = ("checkpoint", "hall_of_fame", BOARD)


def clear(folder: Path) -> None:
    """Removes the files of a run, and only those; its ``config.json`` last."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*.png"):
        if _is_figure(path):
            path.unlink()
    for path in folder.glob("*.html"):
        if is_page(path):
            path.unlink()
    for place in (folder / name for name in _FOLDERS):
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
    (folder / "config.json").unlink(missing_ok=True)


def is_page(path: Path) -> bool:
    """Tells whether a file is a page that evoprune wrote."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(1000)
    return False


def _is_figure(path: Path) -> bool:
    ((key, value),) = SOFTWARE.items()
    with contextlib.suppress(OSError), open_regular(path) as file:
        return f"{key}\0{value}".encode() in file.read(1000)
    return False
