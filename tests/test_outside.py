"""Things registered from files outside the package: through --load and in Python, alone and on two workers."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import ROOT, python

import evoprune as ep

OUTSIDE = Path(__file__).parent / "outside"
SMALL = ("--widths", "12", "--epochs", "2", "--sparsity", "0.8")
FEW = ("kstarts", "--k", "4", "--fitness-epochs", "1")
COMMANDS = {
    "w0_fitness": (*FEW, "--fitness", "distance"),
    "metric": (*FEW, "--metrics", "false-confidence", "f1", "--fitness", "metric:false-confidence"),
    "mutation": ("evolve", "--k", "2", "--generations", "1", "--mutation", "gentle", "--trained-bests", "0"),
    "crossover": ("evolve", "--k", "2", "--generations", "1", "--crossover", "calm", "--trained-bests", "0"),
    "baseline": ("least",),
    "schedule": ("regrow",),
    "learning_rate": (*FEW, "--schedule", "restarts"),
    "optimizer": (*FEW, "--optimizer", "signed", "--lr", "0.001"),
    "method": ("climb", "--steps", "2"),
    "figure": ("snip",),
    "logger": (*FEW, "--log", "terse", "jsonl"),
    "engine": (*FEW, "--engine", "looped"),
    "model": (*FEW, "--model", "residual"),
    "data": (*FEW, "--data", "quadrants"),
    "prunable": (*FEW, "--model", "low-rank"),
}  # fmt: skip
Alone = Callable[[str], tuple[Path, dict[str, object]]]
ALIKE = ("crossover", "engine", "learning_rate", "optimizer")  # reach workers as mutations do
EVALUATES = ("w0_fitness", "metric", "mutation", "crossover", "method", "engine", "learning_rate", "optimizer", "prunable")
ROWS = {"baseline": "least", "schedule": "regrow", "method": "climb"}


def run(folder: Path, kind: str, *more: str) -> dict[str, object]:
    model = () if kind in ("model", "prunable") else ("--model", "mlp")
    command = ["-m", "evoprune", *COMMANDS[kind], *model, *SMALL, "--load", OUTSIDE / f"{kind}.py", "--out", folder, *more]
    code, output = python(*command, folder=ROOT)
    assert code == 0, output
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The folder and the result of a command in one process, which is run when it is first needed."""

    @functools.cache
    def made(kind: str) -> tuple[Path, dict[str, object]]:
        folder = tmp_path_factory.mktemp(kind) / "run"
        return folder, run(folder, kind)

    return made


@pytest.mark.sampled(4)
@pytest.mark.process
@pytest.mark.parametrize("kind", COMMANDS)
def test_the_command_line_finds_it(kind: str, alone: Alone) -> None:
    folder, result = alone(kind)
    assert result["method"] == COMMANDS[kind][0]
    if kind in ("engine", "model", "data"):
        assert result[kind] == COMMANDS[kind][-1]
    if kind == "prunable":
        assert list(ep.Mask.load(folder / "mask.npz").layers) == ["1.left", "1.right", "3.weight"]
    if kind == "metric":
        assert 0 < float(result["test_false-confidence"]) < 1
        assert result["winner_fitness"] < 0
    if kind == "figure":
        assert (folder / "bars.png").stat().st_size > 1000
    if kind == "logger":
        lines = [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert lines == ["start", *["evaluation"] * 4, "generation", "end"]
    if kind == "learning_rate":
        assert json.loads((folder / "config.json").read_text())["settings"]["problem"]["recipe"]["schedule"] == "restarts"
    if kind == "schedule":
        assert result["mask"] != result["start"]
        assert result["sparsity"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.sampled(1)
@pytest.mark.process
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ALIKE else ()) for kind in EVALUATES])
def test_two_workers_have_the_same_bits(kind: str, alone: Alone, tmp_path: Path) -> None:
    together = run(tmp_path / "two", kind, "--workers", "pool:2")
    assert {**alone(kind)[1], "seconds": 0} == {**together, "seconds": 0}
    assert json.loads((tmp_path / "two" / "config.json").read_text())["execution"]["workers"] == "pool:2"


@pytest.mark.slow
@pytest.mark.process
def test_a_back_end_of_workers(alone: Alone, tmp_path: Path) -> None:
    more = ("--load", str(OUTSIDE / "workers.py"), str(OUTSIDE / "w0_fitness.py"), "--workers", "futures:2")
    assert {**run(tmp_path / "two", "w0_fitness", *more), "seconds": 0} == {**alone("w0_fitness")[1], "seconds": 0}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("workers", ["serial", "pool:2"])
def test_a_comparison_has_its_rows(workers: str, tmp_path: Path) -> None:
    files = [str(OUTSIDE / f"{kind}.py") for kind in ROWS]
    arguments = ["--model", "mlp", "--widths", "12", "--epochs", "2", "--sparsities", "0.8", "--seeds", "1"]
    code, output = python(
        "-m", "evoprune", "compare", *arguments, "--methods", *ROWS.values(), "--load", *files, "--workers", workers,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, output
    for name in ROWS.values():
        assert f"| {name} " in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.process
def test_a_run_notices_that_a_loaded_file_has_changed(tmp_path: Path) -> None:
    copy = tmp_path / "mutation.py"
    copy.write_text((OUTSIDE / "mutation.py").read_text())
    command = ["-m", "evoprune", *COMMANDS["mutation"], "--model", "mlp", *SMALL, "--load", copy, "--out", tmp_path / "run"]
    assert python(*command)[0] == 0
    copy.write_text(copy.read_text().replace("fraction / 2", "fraction / 3"))
    code, output = python(*command)
    assert code == 2, output
    assert "these have changed: mutation gentle, load mutation.py" in output or "load mutation.py" in output


@pytest.mark.slow
@pytest.mark.process
def test_python_takes_the_things_themselves(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PYTHON)
    code, output = python(script, str(OUTSIDE), folder=tmp_path)
    assert code == 0, output
    assert output.split()[-1] == "done"


PYTHON = """
import sys
import evoprune as ep
sys.path.insert(0, sys.argv[1])
import baseline, crossover, method, mutation, schedule, w0_fitness, workers

def main():
    problem = ep.Problem(model="mlp", widths=(12,), recipe=ep.Recipe(epochs=2))
    options = {"sparsity": 0.8, "controls": False, "seed": 1}
    results = []
    for back_end in ("serial", "pool:2", workers.Futures("futures:2")):
        a = ep.k_starts(problem, k=4, fitness=w0_fitness.distance, fitness_epochs=1, workers=back_end, **options)
        evolution = ep.Evolution(k=2, generations=1, mutation=mutation.gentle, crossover=crossover.calm)
        b = ep.evolve(problem, evolution, trained_bests=0, workers=back_end, **options)
        c = ep.prune(problem, method.Climb, steps=2, workers=back_end, **options)
        results.append([r.mask.hash for r in (a, b, c)] + [m.fitness.values for m in (*a.population, *b.population)])
    assert results[0] == results[1] == results[2], results
    assert ep.baseline(problem, baseline.least, sparsity=0.8).mask == ep.prune(problem, "least", sparsity=0.8).mask
    assert ep.prune(problem, "regrow", sparsity=0.8).mask.sparsity > 0.79
    search = ep.Search(problem, method.Climb, steps=2, sparsity=0.8)
    while not search.finished:
        masks = search.ask()
        search.tell(masks, [float(mask.bits[:10].sum()) for mask in masks])
    assert search.best.fitness.valid
    print("done")

if __name__ == "__main__":
    main()
"""
