"""Processes of Python that need not import the heavy libraries anew, which takes longer than most of what they do.

A server imports them once. For each request it forks a process, which leads a process group, takes over the arguments, folder,
environment and output, and then runs the program as the interpreter would.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

LIBRARIES = (
    "torch",
    "torch._dynamo",
    "sklearn.datasets",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "tyro",
    "deap.tools",
)


class Server:
    """Runs programs, one after another."""

    def __init__(self) -> None:
        self._end, theirs = Pipe()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def run(self, arguments: list[str], folder: Path, deadline: float) -> tuple[int | None, str]:
        """Returns the exit status and the output of a program; the status is None if it had to be ended."""
        with tempfile.NamedTemporaryFile() as output:
            self._end.send((arguments, folder, output.name, dict(os.environ)))
            leader = self._end.recv()
            in_time = self._end.poll(deadline)
            if not in_time:
                os.killpg(leader, signal.SIGKILL)
            status = self._end.recv()
            return status if in_time else None, output.read().decode()

    def close(self) -> None:
        self._end.close()
        self._process.wait()


def serve(end: Connection) -> list[str]:
    """Answers requests until the other end is closed; in a forked process, returns the arguments of the program to run."""
    while True:
        try:
            arguments, folder, output, environment = end.recv()
        except EOFError:
            sys.exit()
        child = os.fork()
        if child == 0:
            os.setsid()
            end.close()
            descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            return arguments
        end.send(child)
        end.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    for library in LIBRARIES:
        __import__(library)
    sys.argv = serve(Connection(int(sys.argv[1])))
    if sys.argv[0] == "-m":
        sys.argv, sys.path[0] = sys.argv[1:], str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
