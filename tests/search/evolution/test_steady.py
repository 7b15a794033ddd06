"""Steady-state evolution: serially, over workers, killed and resumed, and repeated from its recorded order of arrivals."""

import csv
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.fleet import evaluations
from support.processes import finish, python, start, wait_for

import evoprune as ep
from evoprune.runs import records
from evoprune.runs.run import Run
from evoprune.workers.base import Returned

STEADY = ep.Evolution(k=3, offspring=4, generations=5, steady_state=True)
EVALUATED = 4 + 5 * 4


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Returns the evaluations in the order in which they arrived."""
    with (folder / "evaluations.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "worker", "check")} for row in csv.DictReader(file)]


@pytest.mark.parametrize("slots", [1, 3])
def test_generations_are_counted_by_arrivals(digits: ep.Problem, tmp_path: Path, slots: int) -> None:
    evolution = ep.Evolution(k=3, offspring=4, generations=5, steady_state=True, slots=slots)
    result = ep.evolve(digits, evolution, sparsity=0.8, chunk_size=2, engine="sparse", out=tmp_path / "run", controls=False)
    rows = rows_of(tmp_path / "run")
    assert len(rows) == len({row["mask"] for row in rows}) == EVALUATED == result.summary["evaluations"]
    assert Counter(row["gen"] for row in rows) == Counter({str(gen): 4 for gen in range(6)})
    assert result.logbook.select("nevals") == [4] * 6
    best = result.logbook.select("best")
    assert best == sorted(best)
    assert best[-1] > best[0]
    fittest = sorted((float(row["loss"]) for row in rows), reverse=True)
    assert [mask.fitness.values[0] for mask in result.population] == fittest[:3]
    assert result.mask.fitness.values[0] == fittest[0]


class Backwards:
    """Workers of which the last to get a chunk is the first to finish it."""

    def __init__(self) -> None:
        self.tasks: list[tuple[int, object, tuple[object, ...]]] = []
        self.submitted = 0

    def submit(self, function: object, *arguments: object) -> int:
        self.submitted += 1
        self.tasks.append((self.submitted, function, arguments))
        return self.submitted

    def wait(self) -> tuple[int, Returned]:
        ticket, function, arguments = self.tasks.pop()
        return ticket, Returned(function(*arguments))

    def count(self) -> int:
        return 2

    def close(self) -> None:
        self.tasks.clear()


def test_the_order_of_arrivals_decides(digits: ep.Problem, tmp_path: Path) -> None:
    evolution = ep.Evolution(k=3, offspring=4, generations=3, steady_state=True, slots=3)
    found = []
    for name, workers in (("forwards", "serial"), ("backwards", Backwards()), ("again", Backwards())):
        folder = tmp_path / name
        ep.evolve(
            digits,
            evolution,
            sparsity=0.8,
            chunk_size=2,
            engine="sparse",
            workers=workers,
            out=folder,
            controls=False,
            trained_bests=0,
        )
        found.append([row["mask"] for row in rows_of(folder)])
    assert found[1] == found[2]
    assert set(found[0]) != set(found[1])


class KilledError(BaseException):
    """Ends a run as abruptly as a signal does."""


@pytest.fixture
def small(tensors: ep.Data) -> ep.Problem:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return ep.Problem(model=model, data=tensors, recipe=ep.Recipe(epochs=2), seed=0)


def evolve(problem: ep.Problem, folder: Path, evolution: ep.Evolution = STEADY, **options: object) -> ep.Result:
    given = {"sparsity": 0.5, "chunk_size": 3, "engine": "module", "controls": False, "trained_bests": 0, **options}
    return ep.evolve(problem, evolution, out=folder, progress=False, **given)


@pytest.mark.filterwarnings("ignore:the checkpoint .* is damaged")
@pytest.mark.parametrize(
    ("damage", "first", "step"), [(False, 4, 7), (True, 5, 9), pytest.param(False, 4, 1, marks=pytest.mark.slow)]
)
def test_ended_at_any_arrival_it_resumes_to_the_same(
    small: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool, first: int, step: int
) -> None:
    """Chunks of three reach into the next generation of four; evidence that is damaged is taken again."""
    evolution = replace(STEADY, slots=2)
    whole = evolve(small, tmp_path / "whole", evolution)
    rows = rows_of(tmp_path / "whole")
    assert Counter(row["gen"] for row in rows) == Counter({str(gen): 4 for gen in range(6)})
    record = Run.record
    for cut in range(first, EVALUATED, step):
        folder = tmp_path / f"cut-{cut}"

        def record_some(self: Run, gen: int, evaluations: list[ep.Evaluation], cut: int = cut) -> None:
            left = cut - len(self.evaluations)
            record(self, gen, evaluations[:left])
            if left <= len(evaluations):
                raise KilledError

        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(Run, "record", record_some)
            evolve(small, folder, evolution)
        assert len(rows_of(folder)) == cut
        if damage:
            for path in folder.glob("checkpoint/evidence-*/*.safetensors"):
                path.write_bytes(b"")
        result = evolve(small, folder, evolution)
        assert rows_of(folder) == rows
        assert result.logbook.select("best") == whole.logbook.select("best")
        assert result.mask == whole.mask


def test_it_ends_where_no_new_mask_is_found(small: ep.Problem, tmp_path: Path) -> None:
    """Crossover alone, of masks that differ in few layers, soon makes only masks that were seen before."""
    evolution = replace(STEADY, slots=2, generations=20, crossover="layer", crossover_probability=1.0)
    result = evolve(small, tmp_path / "run", evolution)
    rows = rows_of(tmp_path / "run")
    assert 4 < len(rows) < evolution.most_evaluations
    assert sum(result.logbook.select("nevals")) == len(rows)
    assert result.summary["stopped_by"] == "no new mask was found"
    (tmp_path / "run" / "result.json").unlink()
    assert evolve(small, tmp_path / "run", evolution).mask == result.mask
    assert rows_of(tmp_path / "run") == rows


def test_no_more_is_bred_than_evaluations_allow(small: ep.Problem, tmp_path: Path) -> None:
    workers = Backwards()
    evolve(small, tmp_path / "run", replace(STEADY, slots=2, evaluations=14), workers=workers)
    assert len(rows_of(tmp_path / "run")) == 12
    assert workers.submitted == 12
    assert not workers.tasks


def test_slots_are_as_many_as_workers(small: ep.Problem, tmp_path: Path) -> None:
    evolve(small, tmp_path / "run", workers=Backwards())
    evolve(small, tmp_path / "slots", replace(STEADY, slots=2), workers=Backwards())
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "slots")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "generational"}, "expected the algorithm mu\\+lambda"),
        ({"first_sparsity": 0.5}, "no first_sparsity"),
        ({"steady_state": False, "slots": 2}, "expected steady_state"),
        ({"slots": 0}, "slots is 0"),
        ({"selection": "tournament"}, "expected best or nsga2"),
    ],
)
def test_options_that_do_not_go_together(digits: ep.Problem, options: dict[str, object], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.evolve(digits, ep.Evolution(**{"steady_state": True, **options}), sparsity=0.8)


@pytest.mark.process
def test_killed_and_resumed_and_repeated(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from what has arrived, with as many slots as before, and its recorded order gives the same masks again."""
    monkeypatch.setenv("STEADY", "1")
    folder = tmp_path / "run"

    def launch(n: int) -> subprocess.Popen[str]:
        return start(["-m", "evoprune.scoop", "-n", str(n), str(script), str(folder)])

    process = launch(2)
    wait_for(process, lambda: evaluations(folder) > 18)
    process.kill()
    finish(process)
    before = rows_of(folder)[:-1]  # the last one may be torn
    assert len(before) < 4 * 8
    code, output = finish(launch(3))
    assert code == 0, output
    rows = rows_of(folder)
    assert rows[: len(before)] == before
    assert len(rows) == len({row["mask"] for row in rows}) == 4 * 8
    config = records.read_json(folder / "config.json")
    assert config is not None
    assert config["execution"]["slots"] == 2

    monkeypatch.setenv("REPLAY", str(folder))
    code, output = python(script, tmp_path / "again")
    assert code == 0, output
    assert rows_of(tmp_path / "again") == rows
    for name in ["mask.npz", "model.safetensors", *(f"hall_of_fame/{p.name}" for p in folder.glob("hall_of_fame/*"))]:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.process
@pytest.mark.slow
def test_dask_keeps_its_slots_filled(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="Dask is an extra: pip install 'evoprune[dask]'")
    monkeypatch.setenv("STEADY", "1")
    monkeypatch.setenv("WORKERS", "dask:2")
    code, output = python(script, tmp_path / "run")
    assert code == 0, output
    assert len({row["mask"] for row in rows_of(tmp_path / "run")}) == 4 * 8
    monkeypatch.setenv("REPLAY", str(tmp_path / "run"))
    code, output = python(script, tmp_path / "again")
    assert code == 0, output
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "run")
