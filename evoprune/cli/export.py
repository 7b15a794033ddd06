"""The command ``evoprune export``: the trained network of a run in formats of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evoprune.cli.forms import form, parse
from evoprune.errors import InputError
from evoprune.system import loading, signals


@dataclass(frozen=True)
class ExportOptions:
    """Options of the command."""

    run: Path = field(default=Path(), metadata={"positional": True})
    """Folder of the run, which is finished."""
    to: tuple[str, ...] = ()
    """Formats, one or several: torch, prune, safetensors, csr, sparse, onnx, shrink."""
    out: Path | None = None
    """Folder of the files. None: beside the run, with -export behind its name."""
    test_data: bool = False
    """Write the prepared test set, too, as test.safetensors."""
    data_dir: Path | None = None
    """Folder of the data, for formats that need the network and its data. None: the usual one."""
    load: tuple[Path, ...] = ()
    """Your Python files, which register the network or the data of the run."""
    force: bool = False
    """Replace files that have another content."""


def export(arguments: Sequence[str], prog: str | None) -> None:
    """Writes the trained network of a run in some formats, and prints the files and facts about them.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.

    Raises:
        InputError: See :func:`evoprune.export.writing.write`.
    """
    from evoprune.export.formats import EXPORTS

    with signals.nothing_begun():
        about = "Write the trained network of a run in formats of other programs."
        formats = "\n".join(f"  {name:12} {form.summary}" for name, form in EXPORTS.items())
        options = parse(form(ExportOptions), f"{about}\n\nFormats:\n{formats}", arguments, prog)
        for path in options.load:
            loading.load(path)
    if not options.to and str(options.run) in EXPORTS and not options.run.exists():
        raise InputError(f"no folder is given; expected that of a run: evoprune export RUN --to {options.run}.")
    if not options.to and not options.test_data:
        raise InputError(f"no format is given; expected --to with some of: {', '.join(EXPORTS)}.")
    from evoprune.export.writing import write

    given = {"test_data": options.test_data, "force": options.force, "data_dir": options.data_dir}
    exported = write(options.run, options.to, options.out, **given)
    for name, facts in exported.facts.items():
        for fact, value in facts.items():
            print(f"{name:12} {fact}: {value}")
    folder = exported.files[0].parent
    print(f"written to {folder}: {', '.join(path.name for path in exported.files)}")
