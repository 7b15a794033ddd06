"""The process of the script, or of a worker: ``python -m evoprune.scoop.process NAME``, started by the launcher.

It takes its orders from standard input, so that keys are neither on disk nor in a process list. It ends when standard input
ends, so that no process outlives the launcher, on any host.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.scoop.broker import Keys
from evoprune.system import signals, terminal
from evoprune.system.devices import sees
from evoprune.system.libraries import ONE_THREAD


@dataclass(frozen=True)
class Orders:
    """The launcher's orders to a process.

    Attributes:
        name: The process's name, unique in the run.
        is_script: It is the process of the script, otherwise of a worker.
        is_remote: It is on another host than the launcher.
        host: Address of the broker.
        port: Its port.
        keys: Keys of the run, without the secret one of the broker.
        workers: Number of workers.
        folder: Folder to work in.
        script: The script, and its arguments.
        device: The GPU of this host that it sees alone; empty for no choice.
    """

    name: str
    is_script: bool
    is_remote: bool
    host: str
    port: int
    keys: Keys
    workers: int
    folder: str
    script: list[str]
    device: str = ""

    def to_line(self) -> bytes:
        """Returns the orders as one line of JSON."""
        keys = {name: key.decode() for name, key in asdict(self.keys).items()} | {"broker_secret": ""}
        return json.dumps({**asdict(self), "keys": keys}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Orders:
        """Returns the orders of a line."""
        fields = json.loads(line)
        keys = Keys(**{name: key.encode() for name, key in fields["keys"].items()})
        return cls(**fields | {"keys": keys})


# Ends its process group when the lifeline is closed, also while C code holds the interpreter. The launcher's only message
# before that is that the task takes too long: then a traceback shows the place where it hangs.
GUARD = "read -r late && kill -USR2 $PPID && sleep 0.5; kill -KILL 0"


def main() -> None:
    """Takes orders, and works or runs the script; ends with the status of the script."""
    signals.end_at_once(signals.STOPPED)  # until the script runs; workers ignore it later
    if os.getpgrp() != os.getpid():
        os.setsid()  # so that it can be ended with all that it starts
    with os.fdopen(os.dup(0), "rb", buffering=0) as lifeline:
        line = lifeline.readline()
    if not line:
        sys.exit("evoprune.scoop.process takes its orders from the launcher; start with: python -m evoprune.scoop script.py")
    orders = Orders.from_line(line)
    faulthandler.register(signal.SIGUSR2)
    subprocess.Popen(["/bin/sh", "-c", GUARD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    try:
        os.environ.update(ONE_THREAD | sees(orders.device))  # before torch is imported
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(run(orders))


def run(orders: Orders) -> Any:
    """Patches SCOOP, and starts it; returns the exit status."""
    from scoop.bootstrap.__main__ import Bootstrap

    from evoprune.scoop import patches

    class Start(Bootstrap):  # type: ignore[misc]
        def run(self, globs: dict[str, Any] | None = None) -> None:
            # things that are pickled as the script's are looked up in __main__, which is this module, and not SCOOP's
            super().run(vars(sys.modules["__main__"]))

    title = f"{socket.gethostname()}:{os.getpid()}"
    connection = patches.Connection(orders.name, title, orders.host, orders.port, orders.is_remote, orders.keys)
    exit_status = patches.ExitStatus()
    if orders.is_script:
        exit_status = patches.patch_script(connection)
    else:
        patches.patch_worker(connection)
        terminal.clears_bars()
    start = Start()
    start.verbose = 0
    start.makeParser()
    options = ["--origin"] if orders.is_script else []
    where = ["--brokerHostname", orders.host, "--taskPort", str(orders.port), "--metaPort", "0"]
    options += [*where, "--size", str(orders.workers + 1), "--workingDirectory", orders.folder]
    start.args = start.parser.parse_args(options)
    # first, as in Python: SCOOP puts it last, so that a module elsewhere would hide one of the same name beside the script
    sys.path.insert(0, str(Path(orders.folder, orders.script[0]).resolve().parent))
    start.args.executable, *start.args.args = orders.script  # SCOOP's parser would search them for its options
    start.main()
    return exit_status.status


if __name__ == "__main__":
    main()
