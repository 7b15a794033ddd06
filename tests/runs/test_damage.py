"""Damaged files of run folders: a resume ends with the same numbers, or is refused with one line; a figure likewise."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.tables import read_table

import evoprune as ep
from evoprune.errors import InputError
from evoprune.figures import runs as figures
from evoprune.runs.run import Run

SPARSITY = 0.7
FEW = {"sparsity": SPARSITY, "trained_bests": 1, "fitness_epochs": 1}
METHODS: dict[str, Callable[[ep.Problem, Path], ep.Result]] = {
    "kstarts": lambda problem, out: ep.k_starts(problem, k=4, sparsity=SPARSITY, fitness_epochs=1, chunk_size=1, out=out),
    "evolve": lambda problem, out: ep.evolve(problem, ep.Evolution(k=2, generations=2), chunk_size=1, out=out, **FEW),
    "steady": lambda problem, out: ep.evolve(
        problem, ep.Evolution(k=2, generations=2, steady_state=True), chunk_size=1, out=out, **FEW
    ),
    "dissipate": lambda problem, out: ep.dissipate(problem, sparsity=SPARSITY, dissipate_epochs=2, out=out),
    "combine": lambda problem, out: ep.combine(
        problem, k=3, sparsity=SPARSITY, dissipate_epochs=1, fitness_epochs=1, chunk_size=1, out=out
    ),
    "snip": lambda problem, out: ep.baseline(problem, "snip", sparsity=SPARSITY, out=out),
}
LEFT_OUT = {"seconds", "worker", "check"}


def lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda content: None,
    "empty": lambda content: b"",
    "halved": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "flipped": flipped,
    "last line lost": lambda content: b"".join(lines(content)[:-1]),
    "last line doubled": lambda content: b"".join([*lines(content), *lines(content)[-1:]]),
    "first row lost": lambda content: b"".join([*lines(content)[:1], *lines(content)[2:]]),
    "row doubled": lambda content: b"".join([*lines(content)[:2], *lines(content)[1:]]),
}
OF_LINES = {"last line lost", "last line doubled", "first row lost", "row doubled"}
SAMPLE = (("kstarts", "flipped"), ("evolve", "last line lost"))
CASES = [
    pytest.param(method, kind, id=f"{method}-{kind}", marks=() if (method, kind) in SAMPLE else pytest.mark.slow)
    for method in METHODS
    for kind in DAMAGES
]


def files_of(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file() and path.suffix != ".png" and path.name != ".lock")


class KilledError(BaseException):
    """Ends a run as abruptly as a signal does."""


@contextlib.contextmanager
def killed_after(count: int) -> Iterator[None]:
    """Ends a run once so many steps or evaluations are recorded."""
    step, record, done = Run.step, Run.record, [0]

    def tick() -> None:
        done[0] += 1
        if done[0] >= count:
            raise KilledError

    def counted_step(self, name, compute):
        content = step(self, name, compute)
        tick()
        return content

    def counted_record(self, gen, evaluations):
        record(self, gen, evaluations)
        tick()

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KilledError):
        patch.setattr(Run, "step", counted_step)
        patch.setattr(Run, "record", counted_record)
        yield


def numbers(folder: Path) -> dict[str, object]:
    """Returns all numbers of a finished run that do not tell the time, and the bits of its files."""
    facts = json.loads((folder / "result.json").read_text())
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        rows = [{k: v for k, v in row.items() if k not in LEFT_OUT and "seconds" not in k} for row in read_table(path)]
        tables[path.name] = sorted(map(repr, rows))
    files = {name: (folder / name).read_bytes() for name in ("mask.npz", "model.safetensors")}
    return {**tables, **files, "result": {k: v for k, v in facts.items() if k != "seconds"}}


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(12,), data="digits", recipe=ep.Recipe(epochs=2), seed=0)


@pytest.fixture(scope="module")
def runs(problem: ep.Problem, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A finished run of a method, and one that was killed in the middle."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(method: str) -> tuple[Path, Path]:
        if method not in made:
            top = tmp_path_factory.mktemp(method)
            METHODS[method](problem, top / "whole")
            with killed_after({"evolve": 5, "steady": 5, "kstarts": 3, "combine": 3}.get(method, 1)):
                METHODS[method](problem, top / "killed")
            assert not (top / "killed" / "result.json").exists()
            made[method] = top / "whole", top / "killed"
        return made[method]

    return get


def outcome_of(problem: ep.Problem, method: str, folder: Path, whole: dict[str, object]) -> str:
    """Resumes a damaged run: equal, equal with a warning, or refused. Everything else raises."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            METHODS[method](problem, folder)
        except InputError as error:
            assert str(folder) in str(error)
            assert "\n" not in str(error)
            return "refused"
    assert numbers(folder) == whole
    assert all("\n" not in str(warning.message) for warning in said)
    return "warned" if said else "equal"


def damage(path: Path, kind: str) -> bool:
    """Damages a file; False if that changes nothing."""
    before = path.read_bytes()
    after = DAMAGES[kind](before)
    if after is None:
        path.unlink()
    else:
        path.write_bytes(after)
    return after != before


@pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning")
@pytest.mark.parametrize(("method", "kind"), CASES)
def test_a_resume_has_the_same_numbers_or_is_refused(
    problem: ep.Problem, runs: Callable[[str], tuple[Path, Path]], method: str, kind: str, tmp_path: Path, record_property
) -> None:
    whole = numbers(runs(method)[0])
    counts: dict[str, int] = {}
    for run in runs(method):
        for path in sorted(
            p for p in run.rglob("*") if p.is_file() and p.suffix not in (".png", ".lock") and p.name != ".lock"
        ):
            if kind in OF_LINES and path.suffix not in (".csv", ".json"):
                continue
            folder = tmp_path / f"{run.name}-{path.name}"
            shutil.copytree(run, folder)
            if damage(folder / path.relative_to(run), kind):
                outcome = outcome_of(problem, method, folder, whole)
                counts[outcome] = counts.get(outcome, 0) + 1
                print(method, kind, run.name, path.relative_to(run), outcome)
            shutil.rmtree(folder)
    assert counts
    record_property("outcomes", counts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["kstarts", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evolve", "dissipate"))]
)
@pytest.mark.parametrize("kind", ["flipped", "last line lost", "row doubled"])
def test_a_figure_is_refused_or_as_before(
    runs: Callable[[str], tuple[Path, Path]], method: str, kind: str, tmp_path: Path
) -> None:
    whole, _ = runs(method)
    names = figures.figures_of(whole)
    drawn = {name: figures.write_figure(name, whole, tmp_path / f"{name}.png").read_bytes() for name in names}
    for path in sorted(p for p in whole.iterdir() if p.suffix in (".csv", ".json") and p.name != "environment.json"):
        folder = tmp_path / path.stem
        shutil.copytree(whole, folder)
        if damage(folder / path.name, kind):
            for name, before in drawn.items():
                try:
                    assert figures.write_figure(name, folder, tmp_path / "again.png").read_bytes() == before
                except InputError as error:
                    assert str(folder) in str(error)
