"""The launcher's command line."""

from __future__ import annotations

import argparse
import functools
import ipaddress
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evoprune.errors import InputError
from evoprune.system.devices import check_devices


@dataclass(frozen=True)
class Options:
    """Options of the launcher.

    Attributes:
        hosts: The host of each worker.
        script: The script and its arguments.
        listen: Address to listen on.
        tunnel: Workers on other hosts connect through ssh.
        ssh: The ssh command.
        python: The interpreter on other hosts.
        folder: Folder to work in.
        attempts: Number of workers that may end at a task before it is given up.
        quiet: Print errors only.
        devices: The GPU of each worker, such as cuda:0, on its host; empty names where workers share one.
    """

    hosts: Sequence[str]
    script: Sequence[str]
    listen: str = "127.0.0.1"
    tunnel: bool = True
    ssh: Sequence[str] = ("ssh",)
    python: str = sys.executable
    folder: str = "."
    attempts: int = 3
    quiet: bool = False
    devices: Sequence[str] = ()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evoprune.scoop",
        allow_abbrev=False,  # the arguments after the script belong to it
        description="Runs a script with SCOOP's workers, which are authenticated and encrypted, are replaced when they die, "
        "and use one torch thread each. Ends with the exit status of the script. The process of the script only distributes "
        "the work, and has no standard input.",
    )
    parser.add_argument(
        "-n", type=int, metavar="N", help="number of workers (default: one for each core, or for each entry of the hosts)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hosts", nargs="*", metavar="HOST", help="hosts of the workers, one entry for each worker; with "
                       "a larger -n, which comes after it, they are taken in turn. Default: those of Slurm, PBS or SGE, else "
                       "this one")  # fmt: skip
    where.add_argument("--hostfile", metavar="FILE", help="file with a line for each host: its name, and the number of workers")
    parser.add_argument("--listen", metavar="ADDRESS", help="address of this machine to which workers on other hosts connect; "
                        "without it they connect through ssh, and only loopback is listened on")  # fmt: skip
    parser.add_argument(
        "--ssh", default="ssh", metavar="COMMAND", help="ssh and its options, such as 'ssh -p 2222' (default: ssh)"
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="FILE", help="interpreter on other hosts (default: as here)"
    )
    parser.add_argument("--folder", default=str(Path.cwd()), help="folder to work in, on every host (default: this one)")
    parser.add_argument("--attempts", type=int, default=3, metavar="N", help="number of workers that may die at a task before "
                        "it is given up (default: 3); then its masks are evaluated alone, and those that are given up again "
                        "get the worst fitness")  # fmt: skip
    parser.add_argument("--devices", nargs="+", default=[], metavar="DEVICE", help="GPUs such as cuda:0 cuda:1: on every host, "
                        "each worker gets one, which it sees alone. Another option, such as -n, comes after them. Default: the "
                        "workers of a host share its default GPU, if the problem's device is cuda")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="do not print at the end how many tasks each worker did")
    parser.add_argument("script", help="the script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return parser


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Returns the options of a command line.

    Raises:
        InputError: A value that cannot be served.
    """
    given = _parser().parse_args(arguments)
    hosts = find_hosts(given.n, given.hosts, given.hostfile)
    if given.devices and given.n is given.hosts is given.hostfile is None and len(hosts) > len(given.devices):
        hosts = hosts[: len(given.devices)]  # not one for each core
    if given.attempts < 1:
        raise InputError(f"attempts is {given.attempts}; expected at least 1.")
    ssh = shlex.split(given.ssh)
    if any(not is_local(host) for host in hosts) and (not ssh or shutil.which(ssh[0]) is None):
        raise InputError(f"--ssh is {given.ssh!r}, and there is no such command; expected one that starts workers on {hosts}.")
    script = Path(given.folder, given.script)
    if not script.is_file():
        raise InputError(f"there is no script {script}; expected a file, and not a module.")
    return Options(
        hosts=hosts,
        script=[given.script, *given.arguments],
        listen="127.0.0.1" if given.listen is None else find_address(given.listen),
        tunnel=given.listen is None,
        ssh=ssh,
        python=given.python,
        folder=str(Path(given.folder).absolute()),
        attempts=given.attempts,
        quiet=given.quiet,
        devices=share_devices(given.devices, hosts),
    )


def share_devices(devices: Sequence[str], hosts: Sequence[str]) -> list[str]:
    """Returns the GPU of each worker: those of a host take them in turn.

    Args:
        devices: Names of the GPUs, the same on every host.
        hosts: The host of each worker.

    Raises:
        InputError: A host has more workers than devices, or a name is none of a GPU.
    """
    machines = ["" if is_local(host) else host for host in hosts]  # this one has several names
    for machine in dict.fromkeys(machines):
        check_devices(devices, machines.count(machine))
    return [devices[machines[:i].count(machine)] if devices else "" for i, machine in enumerate(machines)]


def find_hosts(n: int | None, hosts: Sequence[str] | None = None, hostfile: str | None = None) -> list[str]:
    """Returns the host of each worker, in the way of SCOOP.

    Args:
        n: Number of workers; None for the number that the hosts give.
        hosts: Names of the hosts.
        hostfile: File with hosts and numbers of workers.

    Raises:
        InputError: A number below 1, or a file that cannot be read.
    """
    from scoop import utils

    if n is not None and n < 1:
        raise InputError(f"n is {n}; expected the number of workers, at least 1.")
    try:
        found = utils.getHosts(hostfile, hosts)
    except (OSError, subprocess.SubprocessError, AssertionError, AttributeError, ValueError) as error:  # of a batch system
        raise InputError(f"cannot read the hosts: {error!r}; name them with --hosts.") from error
    places = [host for host, count in found for _ in range(max(1, count))]
    return [places[i % len(places)] for i in range(n or len(places))]


def find_address(name: str) -> str:
    """Returns the address of a name.

    Raises:
        InputError: It has no address, or stands for every interface.
    """
    try:
        address = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise InputError(f"--listen is {name!r}, which has no address: {error}.") from error
    if ipaddress.ip_address(address).is_unspecified:
        raise InputError(f"--listen is {name!r}, every interface; expected the address of one that the other hosts reach.")
    return str(address)


def is_local(host: str) -> bool:
    """Tells whether a host is this machine."""
    return host in _local_names()


@functools.cache
def _local_names() -> set[str]:
    name = socket.gethostname()
    return {"127.0.0.1", "::1", "localhost", name, name.partition(".")[0], socket.getfqdn()}
