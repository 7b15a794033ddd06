"""The parts of a page, as plain data: the template decides how they look, and escapes every text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

MISSING = "—"
_LONGEST = 300


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Its text.
        key: The number by which rows are sorted, as text; empty to sort by the text.
        share: A part from 0 to 1 that is drawn as a bar; None for no bar.
    """

    text: str
    key: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Text:
    """A paragraph; ``is_warning`` sets it apart."""

    kind: ClassVar[str] = "text"
    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with values, side by side."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table that readers can sort.

    Attributes:
        caption: A sentence on its content.
        head: Titles of the columns.
        rows: The cells.
        summary: Where it is long: the line behind which it is folded; empty to show it at once.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    summary: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, made by :mod:`evoprune.report.pictures`, or as the address of an image; ``is_wide`` for a whole line."""

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    svg: Markup = field(default=Markup(""), repr=False)
    image: str = field(default="", repr=False)
    is_wide: bool = False


@dataclass(frozen=True)
class Code:
    """A command or program that readers can copy."""

    kind: ClassVar[str] = "code"
    text: str


Block = Text | Facts | Table | Picture | Code


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Chapter:
    """A run or a comparison on a page.

    Attributes:
        title: Its title, such as the method and the data.
        folder: Its folder.
        sentence: The result in one sentence.
        notes: Short remarks below it; those that warn are set apart.
        tiles: The main numbers: a name, a value, and a remark.
        sections: The sections.
    """

    title: str
    folder: str
    sentence: str
    notes: Sequence[Text] = ()
    tiles: Sequence[tuple[str, str, str]] = ()
    sections: Sequence[Section] = ()


def words(value: Any) -> Cell:
    """Returns a cell of text, at most 300 letters of it."""
    text = " ".join(str(value).split())
    return Cell(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


def number(value: Any, digits: int = 4, unit: str = "", scale: float = 1.0) -> Cell:
    """Returns a cell of a number with significant digits; a dash for none."""
    return Cell(shown(value, digits, unit, scale), "" if not is_number(value) else repr(scale * float(value)))


def percent(value: Any, decimals: int = 2, bar: bool = False) -> Cell:
    """Returns a cell of a part as a percentage."""
    if not is_number(value):
        return Cell(MISSING)
    share = min(1.0, max(0.0, float(value))) if bar else None
    return Cell(f"{100 * value:.{decimals}f} %", repr(100 * float(value)), share)


def sparsity(value: Any) -> Cell:
    """Returns a cell of a sparsity as a percentage, with enough digits to tell 99.95 % from 100 %."""
    if not is_number(value):
        return Cell(MISSING)
    text = f"{100 * value:.6g}"
    return Cell(f"{text if '.' in text else f'{text}.0'} %", repr(100 * float(value)))


def is_number(value: Any) -> bool:
    """Tells whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(value: Any, digits: int = 4, unit: str = "", scale: float = 1.0) -> str:
    """Returns a number as text with significant digits, and commas from a thousand on; a dash for none."""
    if not is_number(value):
        return MISSING
    scaled = scale * float(value)
    if (isinstance(value, int) and scale == 1) or (abs(scaled) >= 1000 and scaled == round(scaled)):
        text = f"{scaled:,.0f}"
    else:
        text = f"{scaled:,.0f}" if 10**digits <= abs(scaled) < 1e12 else f"{scaled:.{digits}g}"
    return f"{text} {unit}".rstrip()


def operations(value: Any) -> str:
    """Returns a number of multiply-adds as text."""
    if not is_number(value):
        return MISSING
    for size, name in ((1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}"


def duration(seconds: Any) -> str:
    """Returns a time as text."""
    if not is_number(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def facts_of(values: Mapping[str, Any]) -> Facts:
    """Returns names and values, nested ones by dotted names."""
    return Facts([(name, value_text(value)) for name, value in values.items()])


def value_text(value: Any) -> str:
    """Returns a value of a settings file as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return words(", ".join(map(value_text, value)) or "none").text
    return words(f"{value:.6g}" if isinstance(value, float) else value).text


def counted(n: int, one: str, many: str = "") -> str:
    """Returns a number with its noun in singular or plural."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(parts: Iterable[str]) -> str:
    """Returns parts joined by commas."""
    return ", ".join(parts)
