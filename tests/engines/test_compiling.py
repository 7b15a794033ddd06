"""The kernels are compiled once on a machine, and the user is told once."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from support.processes import finish, start

import evoprune as ep
from evoprune.engines.sparse import support
from evoprune.engines.sparse.support import Machine

FLOAT32 = np.dtype(np.float32)

TRAIN = """
import json
import evoprune as ep
from evoprune.engines.sparse.support import machine

problem = ep.Problem(model="mlp", widths=(8,), data="digits", recipe=ep.Recipe(epochs=1), seed=0)
ep.k_starts(problem, k=4, sparsity=0.9, engine="sparse", fitness_epochs=1, progress=False)
stats = machine().run.stats
print(json.dumps([sum(stats.cache_misses.values()), sum(stats.cache_hits.values())]))
"""


@pytest.mark.slow
@pytest.mark.process
def test_of_two_processes_one_compiles_and_the_other_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    both = [start([str(script)]) for _ in range(2)]
    found = []
    for process in both:
        code, output = finish(process)
        assert code == 0, output
        found.append(json.loads(output.splitlines()[-1]))
    assert sorted(found) == [[0, 1], [1, 0]]


class Slow:
    """Stands for numba's dispatcher, and takes a while to compile."""

    def __init__(self) -> None:
        self.compiled = 0
        self.stats = SimpleNamespace(cache_path=None, cache_misses={})

    def typeof_pyval(self, value: object) -> type:
        return type(value)

    def compile(self, signature: tuple[type, ...]) -> None:
        if signature not in self.stats.cache_misses:
            time.sleep(0.05)
            self.compiled += 1
            self.stats.cache_misses[signature] = 1


def test_threads_that_need_the_kernels_at_once_tell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(support, "PATIENCE", 0.01)
    monkeypatch.setattr(support, "_tell", told.append)
    run = Slow()
    machine = Machine(run, {}, None, None)  # type: ignore[arg-type]
    threads = [threading.Thread(target=machine.prepare, args=(FLOAT32, (1, 2.0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.compiled == 1
    assert [text.partition(" ")[0] for text in told] == ["waiting", "compiled"]


def test_an_error_of_the_compiler_is_raised_and_the_next_call_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Slow()
    machine = Machine(run, {}, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(run, "compile", lambda signature: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        machine.prepare(FLOAT32, ())
    monkeypatch.undo()
    machine.prepare(FLOAT32, ())
    assert run.compiled == 1


def test_a_process_that_only_loads_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(support, "_tell", told.append)
    monkeypatch.setattr(support, "PATIENCE", 0.0)  # however slow it is
    run = Slow()
    run.stats.cache_path, run.stats.cache_misses[()] = str(tmp_path), 1  # numba has it
    (tmp_path / "float32-1.compiled").touch()
    with FileLock(tmp_path / "kernels.lock"):
        Machine(run, {}, None, None, version="1").prepare(FLOAT32, ())  # type: ignore[arg-type]
    assert run.compiled == 0
    assert not [text for text in told if text.startswith("compiled")]


def test_nobody_waits_for_ever_for_the_process_that_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "WAIT", 0.05)
    run = Slow()
    run.stats.cache_path = str(tmp_path)
    with FileLock(tmp_path / "kernels.lock"):
        Machine(run, {}, None, None).prepare(FLOAT32, ())  # type: ignore[arg-type]
    assert run.compiled == 1


@pytest.mark.parametrize("folder", [None, "missing"])
def test_without_a_folder_for_a_lock_it_is_compiled_all_the_same(folder: str | None, tmp_path: Path) -> None:
    run = Slow()
    run.stats.cache_path = folder and str(tmp_path / folder)
    Machine(run, {}, None, None).prepare(FLOAT32, ())  # type: ignore[arg-type]
    assert run.compiled == 1
    assert not any(tmp_path.iterdir())


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ep.RunError), support._alone(tmp_path / "kernels.lock"):
        raise ep.RunError("no memory")
    with FileLock(tmp_path / "kernels.lock", timeout=0):
        pass
