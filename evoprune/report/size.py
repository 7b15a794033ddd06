"""The room that a page has for figures, and sections that do not fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evoprune.errors import InputError
from evoprune.report.blocks import Block, Section, Text
from evoprune.report.pictures import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Budget:
    """The bytes that are left for the figures of a page, and the prefixes of their ids."""

    left: int
    prefixes: Iterator[int] = field(default_factory=itertools.count)

    def draw(self, name: str, caption: str, figure: Callable[[], Figure]) -> Block:
        """Returns a figure; or a text that says why there is none: it cannot be drawn, or the page is full.

        Args:
            name: Its name.
            caption: The text below it.
            figure: Draws it.
        """
        try:
            found = picture(name, caption, figure, f"f{next(self.prefixes)}-")
        except Exception as error:  # noqa: BLE001 - a figure that fails does not lose the page
            return failure(f"The figure {name}", error)
        size = len(found.svg) + len(found.image)
        if size > self.left:
            return Text(f"The figure {name} is left out, for the page is large already; evoprune plot draws it.")
        self.left -= size
        return found


def section(title: str, make: Callable[[], Iterable[Block]]) -> Section | None:
    """Returns a section; one that fails says so, and one without a block is None.

    Args:
        title: Its title.
        make: Makes its blocks.
    """
    blocks: list[Block] = []
    try:
        blocks += make()
    except Exception as error:  # noqa: BLE001 - a damaged file does not lose the page
        blocks = [failure("This section", error)]
    return Section(title, blocks) if blocks else None


def failure(what: str, error: Exception) -> Text:
    """Returns a warning that a part of the page cannot be shown, and why."""
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return Text(f"{what} cannot be shown: {' '.join(reason.split())[:600]}", is_warning=True)
