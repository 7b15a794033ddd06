"""The command ``evoprune --print-completion SHELL``: a script that completes commands and options, made by the parser, tyro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Union

from evoprune.cli.commands import COMMANDS
from evoprune.errors import look_up
from evoprune.system import loading

SHELLS = ("bash", "zsh", "fish")


def print_completion(arguments: Sequence[str]) -> None:
    """Prints the script for a shell; methods of installed plugins are among the commands.

    Args:
        arguments: Name of the shell.

    Raises:
        InputError: Not one name of a shell.
    """
    look_up("shell", " ".join(arguments), dict.fromkeys(SHELLS))
    import tyro

    loading.load_plugins()
    every: Any = Union.__getitem__(tuple(_subcommand(name, help, kind) for name, (help, kind) in _forms().items()))
    try:
        tyro.cli(every, prog="evoprune", args=["--tyro-write-completion", *arguments, "-"])
    except SystemExit as end:
        if end.code:
            raise


def _subcommand(name: str, help: str, kind: type[Any]) -> Any:
    import tyro

    flat: Any = tyro.conf.OmitArgPrefixes[kind]  # type: ignore[misc, valid-type]
    return Annotated[flat, tyro.conf.subcommand(name, description=help)]


def _forms() -> dict[str, tuple[str, type[Any]]]:
    """Returns the help and the options of each command, by name."""
    from evoprune.cli.calibrate import CalibrateOptions
    from evoprune.cli.compare import command_line
    from evoprune.cli.experiment import parts_of
    from evoprune.cli.export import ExportOptions
    from evoprune.cli.forms import form, script
    from evoprune.cli.listing import ListOptions
    from evoprune.cli.migrate import MigrateOptions
    from evoprune.cli.plot import PlotOptions
    from evoprune.cli.report import ReportOptions
    from evoprune.search.method import summary_of
    from evoprune.search.registry import find_method, method_names

    kinds = {
        "list": ListOptions,
        "plot": PlotOptions,
        "report": ReportOptions,
        "export": ExportOptions,
        "migrate": MigrateOptions,
        "calibrate": CalibrateOptions,
    }
    found = {name: find_method(name) for name in method_names()}
    methods = {name: (summary_of(method), script(name, parts_of(name, method))) for name, method in found.items()}
    others = {name: form(kind) for name, kind in kinds.items()} | {"compare": command_line()}
    return methods | {name: (COMMANDS[name].help, kind) for name, kind in others.items()}
