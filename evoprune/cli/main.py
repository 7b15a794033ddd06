"""The command ``evoprune``: a method, a comparison, or a figure; the scripts in ``experiments`` and ``plots`` call the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evoprune.cli.guard import guard
from evoprune.system import loading


def run() -> None:
    """Runs the command line ``evoprune COMMAND ...``.

    Ends the process with status 0; 1 for an error of the run, 2 for an error of the user, 130 for Ctrl-C, 143 for SIGTERM.
    """
    guard(lambda: _command(sys.argv[1:]))


def main(command: str, arguments: Sequence[str] | None = None) -> None:
    """Runs one command, as the scripts in ``experiments`` do; see :func:`run`.

    Args:
        command: ``compare``, ``report``, ``migrate``, ``calibrate``, or the name of a method.
        arguments: Its options; None takes the process's.
    """
    guard(lambda: _run(command, sys.argv[1:] if arguments is None else list(arguments), None))


def _command(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(arguments))
        return
    if arguments[0] == "--version":
        from evoprune import __version__

        print(__version__)
        return
    command, *rest = arguments
    _run(command, rest, f"evoprune {command}")


def _run(command: str, arguments: list[str], prog: str | None) -> None:
    loading.load_plugins()
    for path in _values_of("--load", arguments):
        loading.load(path)
    if command == "compare":
        from evoprune.cli.compare import compare

        compare(arguments, prog)
    elif command == "plot":
        from evoprune.cli.plot import plot

        plot(arguments, prog)
    elif command == "report":
        from evoprune.cli.report import report

        report(arguments, prog)
    elif command == "migrate":
        from evoprune.cli.migrate import migrate

        migrate(arguments, prog)
    elif command == "calibrate":
        from evoprune.cli.calibrate import calibrate

        calibrate(arguments, prog)
    else:
        from evoprune.cli.experiment import run_method

        run_method(command, arguments, prog)


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


def _overview(arguments: Sequence[str]) -> str:
    from evoprune.search.method import summary_of
    from evoprune.search.registry import find_method, method_names

    lines = [f"  {name:16} {summary_of(find_method(name))}" for name in method_names()]
    lines += [
        f"  {'compare':16} Compare methods over sparsities, seeds and data sets.",
        f"  {'plot':16} Draw a figure of a run or of a comparison.",
        f"  {'report':16} Write runs and comparisons as one page, or serve it while they continue.",
        f"  {'migrate':16} Bring the folder of an earlier version to this one.",
        f"  {'calibrate':16} Measure the engines on this machine, for --engine auto.",
    ]
    return "\n".join(
        [
            "usage: evoprune COMMAND [options], evoprune COMMAND --help",
            "",
            "Search for sparse neural networks at initialization, by evolution.",
            "",
            *lines,
        ]
    )
