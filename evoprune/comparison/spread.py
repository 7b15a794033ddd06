"""The cells of a comparison, done by this process or by workers. Each function yields a cell, and the reason if it failed."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evoprune.comparison.cells import Cell, Comparison
from evoprune.comparison.execute import run_cell
from evoprune.comparison.methods import split_control
from evoprune.errors import InputError, InUseError, RunError, WorkersError
from evoprune.masks.mask import Mask
from evoprune.system import loading
from evoprune.system.files import plain_name, write_atomically
from evoprune.workers.base import Broken, Lost, Workers
from evoprune.workers.policy import run

# The first file says which run a folder holds, and the last one that it is finished.
_ORDER = {"config.json": 0, "result.json": 2}
_FAME = "hall_of_fame/"


def serial_cells(
    comparison: Comparison, cells: Sequence[Cell], folder: Path, failed: Collection[Cell], workers: Workers | None = None
) -> Iterator[tuple[Cell, str]]:
    """Does cells in this process, each in its run folder; a cell that another process is working on is left to it.

    Args:
        comparison: The settings that the cells share.
        cells: The cells; a control comes after its method.
        folder: Folder of the run folders.
        failed: Cells that have failed before.
        workers: The processes that evaluate the masks; None for this process.

    Raises:
        WorkersError: The workers cannot continue.
    """
    lost = set(failed)
    for cell in cells:
        base = base_of(cell)
        reason = ""
        try:
            if base in lost:
                raise RunError(f"{cell.base} failed")
            if base is not None and not mask_path(base, folder).exists():
                continue  # another process is working on it
            mask = None if base is None else Mask.load(mask_path(base, folder))
            run_cell(comparison, cell, folder / cell.folder, mask, workers)
        except InUseError:
            continue
        except WorkersError:
            raise  # not an error of the cell
        except RunError as error:
            lost.add(cell)
            reason = str(error)
        yield cell, reason


def spread_cells(
    workers: Workers, comparison: Comparison, cells: Sequence[Cell], folder: Path, failed: Collection[Cell]
) -> Iterator[tuple[Cell, str]]:
    """Does cells on workers, and writes their run folders; controls wait until all others are done.

    Args:
        workers: The workers.
        comparison: The settings that the cells share.
        cells: The cells.
        folder: Folder of the run folders.
        failed: Cells that have failed before.

    Raises:
        InputError: A worker met a value of the user that is out of range.
        RunError: A worker met an error that does not come from the cell; the message has its traceback.
    """
    lost = set(failed)
    for controls in (False, True):
        todo: list[Cell] = []
        arguments = []
        for cell in [cell for cell in cells if (base_of(cell) is not None) == controls]:
            base = base_of(cell)
            if base in lost:
                yield cell, f"{cell.base} failed"
            elif base is None or mask_path(base, folder).exists():
                todo.append(cell)
                packed = None if base is None else mask_path(base, folder).read_bytes()
                arguments.append((comparison, cell, packed, loading.sources()))
        for i, outcome in run(workers, compute_cell, arguments):
            cell = todo[i]
            if isinstance(outcome, Broken):
                raise RunError(f"a worker could not do {cell.folder}:\n{outcome.traceback}")
            answer: tuple[str, Any] = ("failed", outcome.reason) if isinstance(outcome, Lost) else outcome.value
            how, content = answer
            if how == "input":
                raise InputError(content)
            if how == "failed":
                lost.add(cell)
                yield cell, content
                continue
            _write(folder / cell.folder, content)
            yield cell, ""


def compute_cell(
    comparison: Comparison, cell: Cell, packed: bytes | None, files: Sequence[loading.Source] = ()
) -> tuple[str, Any]:
    """Does a cell in a worker, which does not write the run folder itself.

    Args:
        comparison: The settings that the cells share.
        cell: The cell.
        packed: For a control, the mask of its method, as :meth:`evoprune.masks.mask.Mask.save` writes it.
        files: The user's files that the main process has loaded; see :func:`evoprune.system.loading.sources`.

    Returns:
        ``("ok", content of the run folder's files by name)``, ``("failed", reason)``, or ``("input", message)``.
    """
    try:
        loading.restore(files)
        with tempfile.TemporaryDirectory() as temporary:
            folder, given = Path(temporary, "run"), Path(temporary, "mask.npz")
            if packed is not None:
                given.write_bytes(packed)
            run_cell(comparison, cell, folder, None if packed is None else Mask.load(given))
            left = [path for pattern in ("*", f"{_FAME}*") for path in folder.glob(pattern) if path.is_file()]
            shown = [path for path in left if not path.name.startswith(".")]
            return "ok", {path.relative_to(folder).as_posix(): path.read_bytes() for path in shown}
    except RunError as error:
        return "failed", str(error)
    except InputError as error:
        return "input", str(error)


def base_of(cell: Cell) -> Cell | None:
    """Returns the cell whose mask a control has; None for a cell that is no control."""
    return None if split_control(cell.method)[1] is None else replace(cell, method=cell.base)


def mask_path(cell: Cell, folder: Path) -> Path:
    """Returns the path of a finished cell's mask."""
    return folder / cell.folder / "mask.npz"


def _write(folder: Path, content: dict[str, bytes]) -> None:
    for name in sorted(content, key=lambda name: _ORDER.get(name, 1)):
        plain = name.removeprefix(_FAME)
        place = folder if plain == name else folder / _FAME
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / plain_name(plain, "a worker"), content[name])
