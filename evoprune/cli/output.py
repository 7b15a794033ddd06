"""The output of a command: for a person to read, one sentence alone, or one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from evoprune.system import terminal


@dataclass(frozen=True)
class OutputOptions:
    """Options of the output, which is read from the command line before all others: see :func:`opened`."""

    quiet: bool = False
    """Print the result in one sentence, and neither settings nor progress. Errors and warnings go to standard error."""
    json: bool = False
    """Print the result as one JSON document on standard output, and everything else on standard error."""


@dataclass(frozen=True)
class Output:
    """The place where a command prints.

    Attributes:
        is_quiet: Only the sentence of the result is printed.
        document_to: Standard output, for the one JSON document, while everything else that is printed goes to standard error;
            None if no document is printed.
    """

    is_quiet: bool = False
    document_to: TextIO | None = None

    def more(self, text: str) -> None:
        """Prints settings, tables and hints, unless the command is quiet."""
        if not self.is_quiet:
            print(text, flush=True)

    def result(self, document: Mapping[str, Any], sentence: str, warnings: Sequence[str] = ()) -> None:
        """Prints a result.

        Args:
            document: The result as JSON values.
            sentence: The result in one sentence.
            warnings: Its faults, a sentence each, which follow.
        """
        if self.document_to is not None:
            from evoprune.runs.records import json_bytes

            self.document_to.write(json_bytes(document).decode())
            self.document_to.flush()
        if not (self.is_quiet and self.document_to):
            print(sentence, flush=True)
        for text in warnings:
            print(f"warning: {text}", file=sys.stderr if self.is_quiet else sys.stdout, flush=True)


@contextmanager
def opened(arguments: Sequence[str]) -> Iterator[Output]:
    """Prepares the output that a command line asks for; before the user's own files are loaded, which may print.

    Args:
        arguments: The command line.
    """
    with ExitStack() as stack:
        kept = stack.enter_context(terminal.stdout_kept()) if _is_set("json", arguments) else None
        stack.enter_context(terminal.quiet(_is_set("quiet", arguments)))
        yield Output(_is_set("quiet", arguments), kept)


def _is_set(name: str, arguments: Sequence[str]) -> bool:
    given = [argument for argument in arguments if argument in (f"--{name}", f"--no-{name}")]
    return given[-1:] == [f"--{name}"]


# A person reads at the terminal.
FOR_A_PERSON = Output()
