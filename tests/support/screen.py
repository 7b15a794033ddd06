"""The screen of a terminal: what a person sees of a program's output, and a program run in a terminal."""

import os
import pty
import re
import struct
import sys
import termios
from fcntl import ioctl
from pathlib import Path
from subprocess import Popen

from support.processes import ROOT

TOKEN = re.compile(r"\x1b\[\d*[A-Za-z]|\n|.", re.DOTALL)


def shown(output: str, columns: int) -> list[str]:
    """Returns the lines of a terminal that is high enough, after some output with the movements that tqdm uses."""
    lines, row, column = [""], 0, 0
    for token in TOKEN.findall(output):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
        elif token.startswith("\x1b["):
            if token[-1] == "A":
                row = max(0, row - int(token[2:-1] or 1))
            elif token[-1] in "JK":
                lines[row] = lines[row][:column]
                lines[row + 1 :] = [] if token[-1] == "J" else lines[row + 1 :]
            else:
                raise AssertionError(f"unknown movement {token!r}")
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


def python_in_terminal(*arguments: object, folder: Path, columns: int, keys: bytes = b"", at: str = "") -> tuple[int, str]:
    """Runs a program in a terminal, and returns its status and output; when a text has appeared, keys are pressed once."""
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = Popen(
        [sys.executable, *map(str, arguments)], stdin=its, stdout=its, stderr=its, cwd=folder, env=environment,
        preexec_fn=lambda: (os.setsid(), ioctl(0, termios.TIOCSCTTY, 0)),
    )  # fmt: skip
    os.close(its)
    output = b""
    try:
        while chunk := _read(ours):
            output += chunk
            if keys and at.encode() in output:
                os.write(ours, keys)
                keys = b""
    finally:
        os.close(ours)
    return process.wait(60), output.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # as Linux says that nobody has the terminal open any more
        return b""
