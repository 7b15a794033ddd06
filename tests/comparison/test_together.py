"""Processes that begin one comparison at the same moment."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.processes import ROOT
from support.warm import Server

from evoprune.comparison.frames import read_cells
from evoprune.runs import sums

METHODS = (("erk", "snip"), ("magnitude", "snip"), ("erk", "kstarts", "kstarts-shuffled"))
SMALL = (
    "--model",
    "mlp",
    "--widths",
    "8",
    "--epochs",
    "1",
    "--k",
    "2",
    "--fitness-epochs",
    "1",
    "--sparsities",
    "0.5",
    "--seeds",
    "1",
)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    made = [Server() for _ in METHODS]
    yield made
    for server in made:
        server.close()


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_three_processes_begin_one_comparison(servers: list[Server], tmp_path: Path, rounds: int) -> None:
    every = {method for methods in METHODS for method in methods}

    def begin(server: Server, methods: tuple[str, ...], folder: Path) -> tuple[int | None, str]:
        return server.run(["-m", "evoprune", "compare", "--methods", *methods, *SMALL, "--out", str(folder)], ROOT, 120)

    for i in range(rounds):
        folder = tmp_path / f"round-{i}"
        with ThreadPoolExecutor(len(servers)) as together:
            ended = list(together.map(begin, servers, METHODS, [folder] * len(servers)))
        assert [status for status, _ in ended] == [0] * len(servers), "\n".join(output for _, output in ended)
        assert not [output for _, output in ended if "warning" in output or "Traceback" in output]
        settings = json.loads((folder / "compare.json").read_text())
        assert set(settings["methods"]) == {method.removesuffix("-shuffled") for method in every}
        assert {keys[0] for keys in settings["cells"]} == every
        left = [method for method in every if method not in set(read_cells(folder / "cells.csv")["method"])]
        status, output = begin(servers[0], tuple(sorted(every)), folder)  # what another process was at, and died, is done
        assert status == 0, output
        assert not left or "kstarts-shuffled" in left
        assert set(read_cells(folder / "cells.csv")["method"]) == every
        assert not sums.damaged(folder)
        assert len(list(folder.glob("*.png"))) == 4
        assert not list(folder.rglob("*.tmp"))
