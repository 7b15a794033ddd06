"""The command ``evoprune``: a method, a comparison, or a figure; the scripts in ``experiments`` and ``plots`` call the same."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evoprune.cli.commands import COMMANDS
from evoprune.cli.guard import STATUSES, guard
from evoprune.cli.output import opened
from evoprune.errors import look_up
from evoprune.system import loading, signals


def run() -> None:
    """Runs the command line ``evoprune COMMAND ...``.

    Ends the process with one of the statuses in :data:`evoprune.cli.guard.STATUSES`.
    """
    guard(lambda: _command(sys.argv[1:]))


def main(command: str, arguments: Sequence[str] | None = None) -> None:
    """Runs one command, as the scripts in ``experiments`` do; see :func:`run`.

    Args:
        command: The name of a method, or one of :data:`evoprune.cli.commands.COMMANDS`.
        arguments: Its options; None takes the process's.
    """
    guard(lambda: _run(command, sys.argv[1:] if arguments is None else list(arguments), None))


def _command(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        with signals.nothing_begun():
            print(_overview())
        return
    if arguments[0] == "--version":
        from evoprune import __version__

        print(__version__)
        return
    command, *rest = arguments
    if command == "--print-completion":
        from evoprune.cli.completion import print_completion

        print_completion(rest)
        return
    _run(command, rest, f"evoprune {command}")


def _run(name: str, arguments: list[str], prog: str | None) -> None:
    command = COMMANDS.get(name)
    with opened(arguments) as output:
        loading.load_plugins()
        for path in _values_of("--load", arguments):
            loading.load(path)
        if command is None:
            with signals.nothing_begun():
                from evoprune.cli.experiment import run_method
                from evoprune.search.registry import method_names

                look_up("method or command", name, dict.fromkeys([*method_names(), *COMMANDS]))
            run_method(name, arguments, prog, output)
        elif command.prints:
            command.load()(arguments, prog, output)
        else:
            command.load()(arguments, prog)


def _values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    """Returns the values of a flag, which has to be read before the others are known."""
    values: list[str] = []
    reading = False
    for argument in arguments:
        if argument.startswith("-"):
            name, equals, value = argument.partition("=")
            reading = name == flag
            values += [value] if reading and equals else []
        elif reading:
            values.append(argument)
    return values


def _overview() -> str:
    from evoprune.baselines.registry import BASELINES
    from evoprune.search.method import summary_of
    from evoprune.search.registry import METHODS, find_method
    from evoprune.training.registry import SCHEDULES

    def summaries(names: Iterable[str]) -> dict[str, str]:
        return {name: summary_of(find_method(name)) for name in names}

    parts: dict[str, Mapping[Any, str]] = {
        "Methods that find a mask and train its network": summaries(METHODS),
        "Methods that change the mask while the network trains": summaries(name for name in SCHEDULES if name not in METHODS),
        "Baselines, whose masks are trained": summaries(BASELINES),
        "Other commands": {name: command.help for name, command in COMMANDS.items()},
        "Without a command": {
            "--version": "Print the version.",
            "--print-completion": "Print a script that completes commands and options: --print-completion bash|zsh|fish.",
        },
        "Exit status": STATUSES,
    }
    texts = ["usage: evoprune COMMAND [options]\n       evoprune COMMAND --help, which explains every option"]
    texts += ["Search for sparse neural networks at initialization, by evolution."]
    texts += ["\n".join([f"{title}:", *(f"  {k:<18} {v}" for k, v in part.items())]) for title, part in parts.items()]
    return "\n\n".join(texts)
