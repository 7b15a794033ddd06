"""Figures are drawn with matplotlib's own defaults, whatever the user's settings, and none that fails ends a run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from evoprune.errors import InputError
from evoprune.runs.folder import SOFTWARE
from evoprune.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# A figure's file, and the function that draws it.
Drawing = tuple[Path, Callable[[], "Figure"]]


@contextlib.contextmanager
def importing_matplotlib() -> Iterator[None]:
    """Keeps the user's settings from an import of matplotlib: a back end that is not installed here ends the import.

    Notebooks pass their back end on to child processes in MPLBACKEND. If matplotlib is imported already, nothing changes.
    """
    before = {name: os.environ.get(name) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
    spec = find_spec("matplotlib")
    if "matplotlib" not in sys.modules and spec is not None and spec.origin is not None:
        os.environ.pop("MPLBACKEND", None)
        os.environ["MATPLOTLIBRC"] = str(Path(spec.origin).parent / "mpl-data" / "matplotlibrc")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def save(drawings: Iterable[Drawing], strict: bool = False) -> list[Path]:
    """Writes figures as PNG, and returns the paths of those that could be drawn.

    The others are named in a warning, and no older figure is left in their place, so that the next call draws them.

    Args:
        drawings: The figures.
        strict: Raise an error instead.

    Raises:
        InputError: With ``strict``, the first figure that cannot be drawn.
    """
    paths = []
    for path, draw in drawings:
        try:
            write_atomically(path, to_bytes(draw, "png"))
        except Exception as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            if strict:
                raise cannot_draw(path.name, error) from error
            warn(path.name, error)
        else:
            paths.append(path)
    return paths


def to_bytes(draw: Callable[[], Figure], kind: str) -> bytes:
    """Returns a figure as a file of a kind, such as png or pdf, drawn with matplotlib's defaults."""
    with importing_matplotlib():
        from matplotlib import style

    content = io.BytesIO()
    with style.context("default"):
        draw().savefig(content, dpi=150, format=kind, metadata=SOFTWARE if kind == "png" else None)
    return content.getvalue()


def cannot_draw(name: str, error: Exception) -> InputError:
    """Returns the error of a figure that cannot be drawn, in one line."""
    if isinstance(error, InputError):
        return error
    text = " ".join(str(error).split())
    return InputError(f"{name} cannot be drawn: {type(error).__name__}: {text[:300]}")


def warn(name: str, error: Exception) -> None:
    """Says, in one line, that a figure cannot be drawn and why."""
    reason = " ".join(str(cannot_draw(name, error)).split())
    with contextlib.suppress(OSError):  # nobody may read it
        print(f"warning: {name if name not in reason else 'a figure'}: {reason}; the same command tries again", file=sys.stderr)
