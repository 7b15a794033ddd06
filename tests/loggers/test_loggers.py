"""Loggers are told every event once, whatever interrupts a run, and never change or end it."""

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from support.comparing import assert_same

import evoprune as ep
from evoprune.cli.experiment import folder_name
from evoprune.evaluation import brief
from evoprune.loggers import LOGGERS, End, Evaluated, Generation, Start
from evoprune.loggers.protocol import METHODS
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations
from evoprune.search.execution import Execution

SMALL: dict[str, Any] = {"sparsity": 0.8, "trained_bests": 0, "controls": False}
EVOLUTION = ep.Evolution(k=2, generations=2)


class Keeps:
    """Keeps the events that it was told, and raises an error in a method if it is to."""

    def __init__(self, fails_in: str = "", error: BaseException | None = None) -> None:
        self.events: list[Any] = []
        self.fails_in, self.error = fails_in, error or OSError("no space")

    def on_start(self, start: Start) -> str:
        self.take("on_start", start)
        return "record-1"

    def on_evaluation(self, evaluated: Evaluated) -> None:
        self.take("on_evaluation", evaluated)

    def on_generation(self, generation: Generation) -> None:
        self.take("on_generation", generation)

    def on_end(self, end: End) -> None:
        self.take("on_end", end)

    def take(self, method: str, event: object) -> None:
        self.events.append(event)
        if method == self.fails_in:
            raise self.error

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def masks(self) -> list[str]:
        return [event.evaluation.mask for event in self.of(Evaluated)]


class StopsAfter:
    """A callback that ends an evolution after a generation."""

    def __init__(self, gen: int, error: BaseException) -> None:
        self.gen, self.error = gen, error

    def on_generation(self, state: Any) -> None:
        if state.logbook[-1]["gen"] == self.gen:
            raise self.error


@pytest.fixture(scope="module")
def kept() -> Keeps:
    return Keeps()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logged") / "run"


@pytest.fixture(scope="module")
def result(digits: ep.Problem, kept: Keeps, folder: Path) -> ep.Result:
    return ep.evolve(digits, EVOLUTION, out=folder, log=[kept, "jsonl"], **SMALL)


@pytest.fixture(scope="module")
def plain(digits: ep.Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    ep.evolve(digits, EVOLUTION, out=folder, **SMALL)
    return folder


def test_every_event_is_told_once_and_in_order(result: ep.Result, kept: Keeps, folder: Path, digits: ep.Problem) -> None:
    kinds = [type(event) for event in kept.events]
    assert kinds == [Start, *([*[Evaluated] * 4, Generation] * 3), End]
    start, end = kept.events[0], kept.events[-1]
    assert (start.method, start.folder, start.session, start.id, start.name) == ("evolve", folder, 1, None, "run")
    assert start.problem_hash == digits.hash
    assert start.settings == records.read_json(folder / "config.json")["settings"]  # type: ignore[index]
    assert [event.number for event in kept.of(Evaluated)] == list(range(1, 13))
    assert [(e.gen, e.evaluation.mask) for e in kept.of(Evaluated)] == [(g, e.mask) for g, e in read_evaluations(folder)]
    assert (end.status, end.error, end.result) == ("finished", "", result)


def test_the_numbers_of_a_generation(result: ep.Result, kept: Keeps) -> None:
    survivors = result.mask.survivors
    for event, record in zip(kept.of(Generation), result.logbook, strict=True):
        assert event.gen == record["gen"]
        assert event.evaluations == 4 * (event.gen + 1)
        assert (event.survivors, event.sparsity) == (survivors, pytest.approx(result.mask.sparsity))
        assert {name: event.values[f"fitness/{name}"] for name in ("min", "mean", "max")} == {
            name: record[name] for name in ("min", "mean", "max")
        }
        assert event.values["loss/mean"] == result.logbook.chapters["loss"][event.gen]["mean"]


def test_a_logger_changes_no_bit_of_a_run(result: ep.Result, folder: Path, plain: Path) -> None:
    assert_same(folder, plain, without=["bests.csv"])
    ours, theirs = (records.read_json(each / "config.json") for each in (folder, plain))
    assert ours == theirs


def test_the_loggers_are_no_part_of_a_folder_name() -> None:
    values = {"data": "digits", "initialization": None, "lr": 0.1}
    assert folder_name("snip", values, Execution) == folder_name("snip", {**values, "log": ("jsonl", "wandb")}, Execution)


def test_json_lines(result: ep.Result, folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *([*["evaluation"] * 4, "generation"] * 3), "end"]
    assert all(before["time"] <= after["time"] for before, after in pairwise(lines))
    rows = read_evaluations(folder)
    for line, (gen, e) in zip([line for line in lines if line["event"] == "evaluation"], rows, strict=True):
        assert (line["gen"], line["mask"], line["loss"]) == (gen, e.mask, e.terms["loss"])
    generations = [line for line in lines if line["event"] == "generation"]
    assert [line["fitness/mean"] for line in generations] == result.logbook.select("mean")
    assert lines[-1]["status"] == "finished"
    assert lines[-1]["result"] == records.read_json(folder / "result.json")


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("enough"), "failed"), (KeyboardInterrupt(), "interrupted")], ids=["error", "ctrl-c"]
)
def test_a_resumed_run_is_told_the_rest(
    result: ep.Result, kept: Keeps, digits: ep.Problem, tmp_path: Path, error: BaseException, status: str
) -> None:
    before, after = Keeps(), Keeps()
    arguments = {**SMALL, "out": tmp_path / "run"}
    with pytest.raises(type(error)):
        ep.evolve(digits, EVOLUTION, callbacks=[StopsAfter(1, error)], log=[before, "jsonl"], **arguments)
    assert before.events[-1] == End(status, "RuntimeError: enough" if status == "failed" else "")
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"event": "evalu')  # as a power failure leaves it
    ep.evolve(digits, EVOLUTION, log=[after, "jsonl"], **arguments)
    assert before.masks + after.masks == kept.masks
    assert [e.number for e in before.of(Evaluated) + after.of(Evaluated)] == list(range(1, 13))
    assert [e.gen for e in before.of(Generation) + after.of(Generation)] == [0, 1, 2]
    assert [(start.session, start.id) for start in before.of(Start) + after.of(Start)] == [(1, None), (2, "record-1")]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["session"] for line in lines if line["event"] == "start"] == [1, 2]
    assert [line["mask"] for line in lines if line["event"] == "evaluation"] == kept.masks
    assert [line["status"] for line in lines if line["event"] == "end"] == [status, "finished"]


def test_a_run_that_was_killed_between_two_evaluations(digits: ep.Problem, tmp_path: Path) -> None:
    before, after = Keeps("on_evaluation", KeyboardInterrupt()), Keeps()
    with pytest.raises(KeyboardInterrupt):
        ep.k_starts(digits, k=4, chunk_size=2, out=tmp_path / "run", log=before, controls=False)
    assert len(before.masks) == 1
    ep.k_starts(digits, k=4, chunk_size=2, out=tmp_path / "run", log=after, controls=False)
    assert [e.number for e in after.of(Evaluated)] == [1, 2, 3, 4]  # the first call did not return
    assert len(set(after.masks)) == 4
    assert [e.gen for e in after.of(Generation)] == [0]


def test_a_new_logger_of_a_finished_run_is_told_everything(
    result: ep.Result, kept: Keeps, digits: ep.Problem, plain: Path
) -> None:
    new = Keeps()
    for _ in range(2):  # the second time it knows all
        ep.evolve(digits, EVOLUTION, out=plain, log=[new, "tensorboard"], **SMALL)
    assert [type(event) for event in new.events] == [Start, *[Evaluated] * 12, *[Generation] * 3, End]
    assert new.masks == kept.masks
    assert new.events[-1].result.summary == records.read_json(plain / "result.json")


def test_steady_state_evolution(digits: ep.Problem, tmp_path: Path) -> None:
    steady, kept = ep.Evolution(k=2, generations=2, steady_state=True), Keeps()
    ep.evolve(digits, steady, out=tmp_path / "run", log=kept, **SMALL)
    assert kept.masks == [e.mask for _, e in read_evaluations(tmp_path / "run")]
    assert [e.gen for e in kept.of(Generation)] == [0, 1, 2]


@pytest.mark.parametrize("method", ["snip", "dissipate", "kstarts", "combine", "gmp"])
def test_methods_in_memory(digits: ep.Problem, method: str) -> None:
    kept = Keeps()
    evaluates = method in ("kstarts", "combine")
    options = {"k": 2, "controls": False} if evaluates else {}
    few = {"dissipate_epochs": 2} if method in ("dissipate", "combine") else {}
    result = ep.prune(digits, method, sparsity=0.6, log=kept, **options, **few)
    assert [type(e) for e in kept.events] == [Start, *([Evaluated, Evaluated, Generation] if evaluates else []), End]
    assert kept.events[0].name == f"{method}-digits"
    assert kept.events[-1].result is result


def test_ask_and_tell(digits: ep.Problem, tmp_path: Path) -> None:
    kept = Keeps()
    with ep.Search(digits, "evolve", k=2, generations=1, out=tmp_path / "run", log=kept) as search:
        while not search.finished:
            masks = search.ask()
            search.tell(masks, [float(mask.bits[:9].sum()) for mask in masks])
    told = [e.evaluation.terms["told"] for e in kept.of(Evaluated)]
    assert told == [e.terms["told"] for _, e in read_evaluations(tmp_path / "run")]
    assert [e.gen for e in kept.of(Generation)] == [0, 1]
    assert kept.events[-1] == End("finished")


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_logger_that_fails_loses_nothing(
    result: ep.Result, digits: ep.Problem, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    fails, works = Keeps(method), Keeps()
    ep.evolve(digits, EVOLUTION, out=tmp_path / "run", log=[fails, works], **SMALL)
    said = capsys.readouterr().err
    assert said.count("the logger own.Keeps failed") == 1
    assert f"own.Keeps failed in {method}: OSError: no space; it is called no more, and the run continues" in said
    assert type(fails.events[-1]) is {"on_evaluation": Evaluated, "on_generation": Generation, "on_end": End}[method]
    assert len(works.masks) == 12
    assert works.events[-1].status == "finished"
    assert_same(folder, tmp_path / "run", without=["bests.csv"])


def test_an_error_of_a_logger_moves_no_cursor(digits: ep.Problem, capsys: pytest.CaptureFixture[str]) -> None:
    class Colours:
        def on_end(self, event: End) -> None:
            raise OSError("\x1b[31mred\x1b[0m")

    ep.prune(digits, "random", sparsity=0.5, log=Colours())
    said = capsys.readouterr().err
    assert "\\x1b[31mred" in said
    assert "\x1b" not in said


def test_a_logger_that_failed_is_told_the_rest_after_a_resume(digits: ep.Problem, tmp_path: Path) -> None:
    fails, works = Keeps("on_generation"), Keeps()
    with pytest.raises(RuntimeError):
        stops = StopsAfter(1, RuntimeError("enough"))
        ep.evolve(digits, EVOLUTION, out=tmp_path / "run", callbacks=[stops], log=fails, **SMALL)
    ep.evolve(digits, EVOLUTION, out=tmp_path / "run", log=works, **SMALL)
    assert [e.gen for e in works.of(Generation)] == [0, 1, 2]
    assert [e.number for e in works.of(Evaluated)] == list(range(5, 13))


@pytest.mark.parametrize("error", [OSError("no server"), ep.InputError("no server; start one.")], ids=["error", "input error"])
def test_a_logger_that_cannot_begin_refuses_the_run(digits: ep.Problem, tmp_path: Path, error: Exception) -> None:
    first, second = Keeps(), Keeps("on_start", error)
    with pytest.raises(ep.InputError, match="no server"):
        ep.k_starts(digits, k=2, out=tmp_path / "run", log=["jsonl", first, second])
    assert [type(event) for event in first.events] == [Start, End]
    assert first.events[-1].status == "failed"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("jsnol", r"unknown logger 'jsnol'; expected one of: .*jsonl.* Did you mean 'jsonl'\?"),
        (["jsonl", "jsonl"], "the logger jsonl is given twice"),
        (3, "int is no logger; expected a name, or an object with a method on_start, on_evaluation"),
        (lambda: 3, "is 3; expected an object with a method"),
        (lambda: 1 / 0, "cannot be made: ZeroDivisionError"),
        ("jsonl", "there is none; expected out=, or log='jsonl:PATH'"),
        ("tensorboard", "there is none; expected out=, or log='tensorboard:PATH'"),
        ("jsonl:/dev/null/x", "cannot write to /dev/null"),
        ("jsonl:.", "jsonl is to write to ., which is a folder; expected the path of a file"),
        ("jsonl:", "the logger 'jsonl:' has no name behind the colon; expected one, or 'jsonl' alone"),
    ],
)
def test_things_that_are_no_loggers_are_refused(digits: ep.Problem, log: Any, message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.k_starts(digits, k=2, log=log)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tool_that_is_not_installed_is_named_with_its_extra(
    digits: ep.Problem, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ep.InputError, match=rf"cannot be imported.*pip install 'evoprune\[{name}\]'"):
        ep.k_starts(digits, k=2, log=name)


@pytest.fixture
def mine() -> Iterator[list[Keeps]]:
    made: list[Keeps] = []

    @ep.register.logger("mine")
    def make() -> Keeps:
        made.append(Keeps())
        return made[-1]

    yield made
    LOGGERS.forget("mine")


def test_a_registered_logger_is_made_for_each_run(digits: ep.Problem, mine: list[Keeps]) -> None:
    for _ in range(2):
        ep.prune(digits, "erk", sparsity=0.3, log="mine")
    assert [type(event) for keeps in mine for event in keeps.events] == [Start, End] * 2


def test_an_id_that_is_no_plain_name_is_refused(digits: ep.Problem, tmp_path: Path) -> None:
    class Elsewhere:
        def on_start(self, start: Start) -> str:
            return "../elsewhere"

    with pytest.raises(ep.InputError, match="expected a plain name"):
        ep.prune(digits, "erk", sparsity=0.3, log=Elsewhere(), out=tmp_path / "run")


def test_a_damaged_record_of_the_loggers_is_refused(digits: ep.Problem, tmp_path: Path) -> None:
    ep.prune(digits, "erk", sparsity=0.3, log="jsonl", out=tmp_path / "run")
    path = tmp_path / "run" / "loggers.json"
    path.write_text(path.read_text().replace('"sessions": 1', '"sessions": 7'))
    with pytest.raises(ep.InputError, match=r"loggers\.json differs from the file that evoprune wrote; restore it"):
        ep.prune(digits, "erk", sparsity=0.3, log="jsonl", out=tmp_path / "run")


def test_force_removes_the_log_of_the_run_before(digits: ep.Problem, tmp_path: Path) -> None:
    log = ["jsonl", "tensorboard"]
    ep.prune(digits, "erk", sparsity=0.3, out=tmp_path / "run", log=log)
    ep.prune(digits, "erk", sparsity=0.2, out=tmp_path / "run", log=log, force=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "end"]
    assert lines[0]["session"] == 1
    assert lines[1]["result"]["sparsity"] == pytest.approx(0.2, abs=1e-3)
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_a_file_of_the_users(digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ep.prune(digits, "erk", sparsity=0.3, log="jsonl:logs/mine.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "logs" / "mine.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "end"] * 2
    assert not [path for path in tmp_path.iterdir() if path.name != "logs"]


def test_masks_that_the_machine_failed_on_are_told_again(
    digits: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, kept = brief.train, Keeps()

    def fail(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("out of memory")

    monkeypatch.setattr(brief, "train", fail)
    with pytest.raises(ep.RunError, match="machine"):
        ep.k_starts(digits, k=2, out=tmp_path / "run", log=kept)
    monkeypatch.setattr(brief, "train", train)
    ep.k_starts(digits, k=2, out=tmp_path / "run", log=kept, retry_failed=True)
    assert [(e.number, e.evaluation.status) for e in kept.of(Evaluated)] == [
        (1, "machine failure"), (2, "machine failure"), (1, "ok"), (2, "ok"),
    ]  # fmt: skip


def test_tensorboard_reads_what_was_logged(result: ep.Result, digits: ep.Problem, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = ep.evolve(digits, EVOLUTION, log=f"tensorboard:{tmp_path / 'board'}", **SMALL)
    assert torch.equal(found.model.state_dict()["fc1.weight"], result.model.state_dict()["fc1.weight"])
    events = reader.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    means = [(e.step, e.value) for e in events.Scalars("fitness/mean")]
    assert means == [(gen, pytest.approx(value)) for gen, value in enumerate(found.logbook.select("mean"))]
    assert [e.step for e in events.Scalars("evaluation/loss")] == list(range(1, 13))
    assert events.Scalars("result/test_accuracy")[0].value == pytest.approx(found.summary["test_accuracy"])
    losses = [row["validation_loss"] for row in found.trainings["winner"].history]
    assert [e.value for e in events.Scalars("winner/validation_loss")] == pytest.approx(losses)
