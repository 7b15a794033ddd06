"""Workers that a user writes outside the package: one file, by name after it was loaded, or as an object."""

from pathlib import Path

import pytest
from support.processes import python

pytestmark = pytest.mark.process

EXECUTOR = """
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait

import evoprune as ep
from evoprune.workers import Lost, attempt, pack


@ep.register.workers("executor")
class Executor:
    def __init__(self, name, evaluation_timeout=None):
        self.n = int(name.partition(":")[2])
        self.pool = ProcessPoolExecutor(self.n, mp_context=multiprocessing.get_context("spawn"))
        self.waiting = set()

    def submit(self, function, *arguments):
        future = self.pool.submit(attempt, pack(function, arguments))
        self.waiting.add(future)
        return future

    def wait(self):
        future = wait(self.waiting, return_when=FIRST_COMPLETED).done.pop()
        self.waiting.remove(future)
        try:
            return future, future.result()
        except BrokenExecutor as error:
            return future, Lost(str(error))

    def count(self):
        return self.n

    def close(self):
        self.pool.shutdown()
"""

SCRIPT = """
import os
import sys

import evoprune as ep
from evoprune.system.loading import load

if __name__ == "__main__":
    own = load(sys.argv[1])
    problem = ep.Problem(model="mlp", widths=(24, 16), seed=0, recipe=ep.Recipe(epochs=2))
    options = dict(sparsity=0.8, fitness=lambda trained, validation: -validation.loss, fitness_epochs=1, chunk_size=2)
    object_of_ours = own.Executor("executor:2")
    found = {}
    every = {name: name for name in ("serial", "executor:1", "executor:2")} | {"object": object_of_ours}
    for name, workers in every.items():
        toolbox = ep.make_toolbox(problem, **options, seed=0, workers=workers)
        with toolbox.map.func:
            values = toolbox.map(toolbox.evaluate, toolbox.population(n=8))
        done_by = {e.worker.rpartition(":")[2] for e in toolbox.evaluate.func.known.values()}
        assert (str(os.getpid()) in done_by) == (name == "serial"), (name, done_by)
        found[name] = values
    object_of_ours.close()
    assert len({str(values) for values in found.values()}) == 1, found
    print("ALL THE SAME")
"""


def test_workers_of_a_users_file_by_name_and_as_an_object(tmp_path: Path) -> None:
    (tmp_path / "executor.py").write_text(EXECUTOR)
    (tmp_path / "script.py").write_text(SCRIPT)
    code, output = python(tmp_path / "script.py", tmp_path / "executor.py", folder=tmp_path)
    assert code == 0, output
    assert "ALL THE SAME" in output
