"""The command ``evoprune``: a method, a comparison, or a figure; the scripts in ``experiments`` and ``plots`` call the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evoprune.cli.commands import COMMANDS
from evoprune.cli.guard import STATUSES, guard
from evoprune.cli.output import opened
from evoprune.system import loading


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
            from evoprune.cli.experiment import run_method

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
    from evoprune.search.method import summary_of
    from evoprune.search.registry import find_method, method_names

    lines = [f"  {name:16} {summary_of(find_method(name))}" for name in method_names()]
    lines += [f"  {name:16} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: evoprune COMMAND [options], evoprune COMMAND --help",
            "",
            "Search for sparse neural networks at initialization, by evolution.",
            "",
            *lines,
            "",
            "Exit status:",
            *(f"  {status:<16} {meaning}" for status, meaning in STATUSES.items()),
            "",
            "evoprune --version prints the version; evoprune --print-completion bash|zsh|fish prints a script that completes",
            "commands and options in a shell.",
        ]
    )
