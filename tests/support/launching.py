"""The launcher's processes."""

import re
import subprocess

import psutil

LAUNCHER = ("-m", "evoprune.scoop")
WORKER = re.compile(r"evoprune\.scoop\.process \S+/\d+")
SCRIPT = "evoprune.scoop.process script"


class Processes:
    """The processes of a launcher."""

    def __init__(self, launcher: subprocess.Popen[str]) -> None:
        self.launcher = launcher

    @property
    def commands(self) -> dict[int, str]:
        """The command lines of its children, by process id."""
        everything = psutil.process_iter(["ppid", "cmdline"])
        return {p.pid: " ".join(p.info["cmdline"] or ()) for p in everything if p.info["ppid"] == self.launcher.pid}

    @property
    def workers(self) -> list[int]:
        return [pid for pid, command in self.commands.items() if WORKER.search(command)]

    @property
    def script(self) -> int:
        (pid,) = (pid for pid, command in self.commands.items() if SCRIPT in command)
        return pid

    @property
    def all(self) -> list[int]:
        return [self.launcher.pid, *self.commands]
