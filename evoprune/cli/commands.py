"""The commands beside the methods: names, help, and where each is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        help: Its help, in one line.
        place: ``module:function``, imported when the command is run; called with the arguments, the name in ``--help``, and,
            if ``prints``, with the output.
        prints: It takes ``--quiet`` and ``--json``.
    """

    help: str
    place: str
    prints: bool = False

    def load(self) -> Callable[..., Any]:
        """Imports and returns the function."""
        module, _, name = self.place.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


COMMANDS = {
    "compare": Command("Compare methods over sparsities, seeds and data sets.", "evoprune.cli.compare:compare", prints=True),
    "list": Command("List the runs and comparisons in folders.", "evoprune.cli.listing:list_folders", prints=True),
    "plot": Command("Draw a figure of a run or of a comparison.", "evoprune.cli.plot:plot"),
    "report": Command("Write runs and comparisons as one page, or serve it while they continue.", "evoprune.cli.report:report"),
    "export": Command("Write the trained network of a run for other programs.", "evoprune.cli.export:export"),
    "migrate": Command("Bring the folder of an earlier version to this one.", "evoprune.cli.migrate:migrate"),
    "calibrate": Command("Measure the engines on this machine, for --engine auto.", "evoprune.cli.calibrate:calibrate"),
}
