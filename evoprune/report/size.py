"""The room that a page has for figures, and sections that do not fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from markupsafe import escape

from evoprune.errors import InputError
from evoprune.report.blocks import Block, Chapter, Section, Table, Text
from evoprune.report.pictures import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Bytes of tables on a page, and those of a cell's element; rows that are never left out of a table that is folded, or not.
MOST_TABLES, _CELL = 500_000, 45
_SHORT, _MAIN = 12, 100


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


def fit(chapters: Sequence[Chapter], room: int = MOST_TABLES) -> list[Chapter]:
    """Returns chapters whose tables have room on a page; where they have not, all long ones are shortened to the same part.

    Args:
        chapters: The chapters.
        room: Bytes of tables that a page holds at most, short ones aside.
    """
    tables = [block for chapter in chapters for each in chapter.sections for block in each.blocks if isinstance(block, Table)]
    part = room / max(1, sum(map(_bytes, tables)))
    if part >= 1:
        return list(chapters)
    return [
        replace(chapter, sections=[Section(s.title, [_shortened(block, part) for block in s.blocks]) for s in chapter.sections])
        for chapter in chapters
    ]


def _bytes(table: Table) -> int:
    cells = [cell for row in table.rows for cell in row]
    return sum(len(str(escape(cell.text)).encode(errors="replace")) + len(cell.key) + _CELL for cell in cells)


def _shortened(block: Block, part: float) -> Block:
    if not isinstance(block, Table):
        return block
    kept = max(_SHORT if block.summary else _MAIN, int(part * len(block.rows)))
    if kept >= len(block.rows):
        return block
    caption = f"{block.caption} The first {kept:,} of {len(block.rows):,} rows, for the page is large already."
    return replace(block, caption=caption, rows=block.rows[:kept])


def failure(what: str, error: Exception) -> Text:
    """Returns a warning that a part of the page cannot be shown, and why."""
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return Text(f"{what} cannot be shown: {' '.join(reason.split())[:600]}", is_warning=True)
