"""Processes of python, each in a process group of its own."""

import atexit
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import warm

ROOT = Path(__file__).parents[2]


def start(arguments: list[str], folder: Path | None = None) -> subprocess.Popen[str]:
    """Starts python in a process group of its own, which kill_group can end."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder or ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], deadline: float = 240) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        kill_group(process)
        output, _ = process.communicate()
        pytest.fail(f"not finished within {deadline} s:\n{output}")
    return process.returncode, output


def kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool], deadline: float = 120) -> None:
    """Waits until a condition holds, as long as the process runs."""
    end = time.monotonic() + deadline
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end
        time.sleep(0.002)


@functools.cache
def server() -> warm.Server:
    made = warm.Server()
    atexit.register(made.close)
    return made


def python(*arguments: object, folder: Path | None = None, deadline: float = 240) -> tuple[int, str]:
    """Runs a program in a process that has the heavy libraries already, and returns its exit status and its output."""
    sys.audit("subprocess.Popen", sys.executable, arguments, None, None)  # as starting it would
    status, output = server().run([str(a) for a in arguments], folder or ROOT, deadline)
    if status is None:
        pytest.fail(f"not finished within {deadline} s:\n{output}")
    return status, output


def python_anew(*arguments: object, folder: Path | None = None, deadline: float = 240) -> tuple[int, str]:
    """Runs a new interpreter, as a user does, and returns its status and output."""
    return finish(start([str(a) for a in arguments], folder), deadline)
