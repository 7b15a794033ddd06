"""A user's file with a network and data, and what tests do with it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evoprune.system import loading

MINE = """
import numpy as np
from torch import nn

import evoprune as ep

HIDDEN = 12  # units


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.second = nn.Linear(2, HIDDEN), nn.Linear(HIDDEN, classes)

    def forward(self, x):
        return self.second(self.first(x).relu())


def make(input_shape, classes):
    return Net(classes)


def points():
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    return ep.Data(train=(x, 2 * (x[:, 0] > 0) + (x[:, 1] > 0)))
"""


def write(folder: Path, text: str = MINE) -> Path:
    """Writes the file into a folder, which is made, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(text)
    return folder / "mine.py"


@contextmanager
def nothing_loaded() -> Iterator[None]:
    """Lets no file be loaded at first, and forgets those that are loaded meanwhile: as in a new process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_loaded", {})
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.startswith(loading.PREFIX)]:
                del sys.modules[name]
